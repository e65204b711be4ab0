"""What the study of BEAR adds to the package: ways to act, averaged actors, critics with layer normalisation."""

import json

import gymnasium as gym
import h5py
import numpy as np
import pytest
import torch as th
from conftest import TINY, make_arrays
from torch import nn

from benchmarks.run import Watch, expand, train
from benchmarks.study import AVERAGING, AveragedActor, Rule, layer_norm
from sb3_pg_extras import BEAR, OfflineDataset, save_dataset


@pytest.fixture
def model():
    return BEAR("MlpPolicy", None, make_arrays(), policy_kwargs=TINY, n_action_samples=100, warmup_fraction=0, seed=0)


def test_best_of_100_under_the_first_critic_is_how_bear_acts(model):
    observations = make_arrays()["observations"]
    (ours, _), (rule, _) = (
        policy.predict(observations, deterministic=True)
        for policy in (model, Rule(model.policy, model.policy.actor, "first critic, 100"))
    )
    # predict compares in double precision: another candidate of nearly the same value is rare.
    assert (np.abs(ours - rule).max(axis=1) < 1e-5).mean() > 0.95
    for name in ("mean", "minimum, 100", "target minimum, 10"):
        other, _ = Rule(model.policy, model.policy.actor, name).predict(observations)
        assert other.shape == ours.shape and not np.allclose(other, rule)


def test_an_averaged_actor_leaves_the_policy_alone(model):
    actors = AveragedActor()
    before = [weight.clone() for weight in model.actor.parameters()]
    model.learn(1, callback=actors)
    for start, average, weight in zip(before, actors.actor.parameters(), model.actor.parameters(), strict=True):
        th.testing.assert_close(average, start.lerp(weight, AVERAGING))
    rule = actors.rules()["averaged actor, mean"]
    assert rule.policy.actor is actors.actor and model.policy.actor is model.actor


def test_ways_of_acting_are_compared_at_the_last_evaluations_only(model):
    compared, actors = [], AveragedActor()

    def evaluate(policy=None):
        if policy is not None:
            compared.append(model.num_timesteps)
        return np.zeros(1)

    model.learn(6, callback=[actors, Watch(evaluate, every=2, actors=actors, n_acting=2)])
    assert sorted(set(compared)) == [4, 6]
    assert len(compared) == 2 * len(actors.rules())


def test_trained_models_are_judged(model):
    judged = []
    watch = Watch(lambda: np.zeros(1), every=2, judge=lambda: judged.append(model.num_timesteps) or {})
    model.learn(4, callback=watch)
    assert judged == [2, 4] and list(watch.evaluations) == [0, 2, 4]


def test_layer_norm_learns_in_both_critics(model):
    model.policy.apply(layer_norm)
    assert [type(layer) for layer in model.critic.q_networks[0]][:3] == [nn.Linear, nn.LayerNorm, nn.ReLU]
    norms = [layer for network in model.critic_target.q_networks for layer in network if isinstance(layer, nn.LayerNorm)]
    before = [norm.bias.clone() for norm in norms]
    model.learn(2)
    assert all(not th.equal(norm.bias, bias) for norm, bias in zip(norms, before, strict=True))


def test_a_suite_of_datasets(tmp_path):
    suite = tmp_path / "sets.yml"
    suite.write_text("""
algorithm: bear
env: [Hopper-v5, Walker2d-v5]
dataset: [medium, medium-expert]
entry: null
seeds: [0]
settings: {policy: MlpPolicy}
runs: [{variant: x}]
""")
    names = [key[3] for key in expand(suite)[0]]
    folder = "benchmarks/runs/locomotion"
    assert names[:2] == [f"{folder}/hopper-medium.npz", f"{folder}/walker2d-medium.npz"] and len(names) == 4
    assert next(iter(expand(suite, "minari")[0]))[3] == "minari:mujoco/hopper/medium-v0"
    assert next(iter(expand(suite, "{kind}/{robot}.npz")[0]))[3] == "medium/hopper.npz"


@pytest.mark.parametrize("data", ["minari", "{robot}_{kind}-v2.hdf5"])
def test_a_suite_trains_on_files_of_d4rl_and_minari(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make("MountainCarContinuous-v0")
    arrays = make_arrays() | {"observation_space": env.observation_space, "action_space": env.action_space}
    states = np.random.default_rng(0).uniform([-1.2, -0.07], [0.6, 0.07], size=(41, 2)).astype(np.float32)
    arrays |= {"observations": states[:-1], "next_observations": states[1:], "actions": states[1:, 1:]}
    dataset = OfflineDataset(**arrays, env_id="MountainCarContinuous-v0")
    if data == "minari":
        save_dataset(dataset, "minari:mujoco/mountaincarcontinuous/medium-v0")
    else:
        with h5py.File("mountaincarcontinuous_medium-v2.hdf5", "w") as file:
            for name in ("observations", "actions", "rewards", "next_observations"):
                file[name] = arrays[name]
            file["terminals"], file["timeouts"] = arrays["terminations"], arrays["truncations"]
    (tmp_path / "small.yml").write_text("""
algorithm: [bear, bc, td3_bc]
env: MountainCarContinuous-v0
dataset: medium
entry: null
seeds: [0]
evaluate: {episodes: 10}
settings: {policy: MlpPolicy, n_timesteps: 3, policy_kwargs: {net_arch: [8]}}
runs: [{variant: small}]
""")
    specs, jobs = expand(tmp_path / "small.yml", data)
    for job in jobs:
        logged = json.loads(train(specs, "cpu", *job)["logged"])
        assert logged["n_updates"] == 3
        assert logged["dataset_best"] == pytest.approx(dataset.episode_returns().max(), rel=1e-3)
