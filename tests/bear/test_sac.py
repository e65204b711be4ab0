"""From offline to online and back: datasets into SB3's replay buffers, BEAR into SAC, SAC into BEAR."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import TINY, make_arrays
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import SAC, TD3, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_pg_extras import BEAR, DatasetError, OfflineDataset, load_dataset, save_dataset
from sb3_pg_extras.bear.policies import BEARPolicy
from sb3_pg_extras.datasets.layout import check_spaces, scale_actions, to_replay_buffer, unscale_actions
from sb3_pg_extras.datasets.readers.replay_buffer import from_replay_buffer

NETWORKS = ("actor", "critic", "critic_target")


class Env(gym.Env):
    """Random observations; episodes of five steps that a time limit ends."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.observation_space.sample(), float(action.sum()), False, self.t == 5, {}


def vector_env(n_envs: int = 1) -> DummyVecEnv:
    """Has the spaces of conftest's arrays."""
    arrays = make_arrays()
    return DummyVecEnv([lambda: Env(arrays["observation_space"], arrays["action_space"])] * n_envs)


MIXED_SPACE = spaces.Dict(image=spaces.Box(0, 255, (36, 36, 3), np.uint8), speed=spaces.Box(-1, 1, (2,)))
IMAGE_SPACE = MIXED_SPACE["image"]


def image_dataset(space: spaces.Space, n: int = 11) -> OfflineDataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n + 1, 36, 36, 3), dtype=np.uint8)
    both = {"image": images, "speed": rng.uniform(-1, 1, (n + 1, 2)).astype(np.float32)}
    return OfflineDataset(
        observations={k: v[:-1] for k, v in both.items()} if isinstance(space, spaces.Dict) else images[:-1],
        next_observations={k: v[1:] for k, v in both.items()} if isinstance(space, spaces.Dict) else images[1:],
        actions=rng.uniform(0, 10, (n, 1)),
        rewards=np.arange(n),
        terminations=np.zeros(n),
        truncations=np.arange(n) % 4 == 3,
        observation_space=space,
        action_space=spaces.Box(0, 10, (1,)),
    )


def trained(env=None, dataset=None, policy="MlpPolicy", steps=3, **kwargs) -> BEAR:
    """A BEAR whose networks have moved away from where they started, and targets from critics."""
    defaults = {"batch_size": 16, "warmup_fraction": 0, "seed": 0, "device": "cpu", "n_action_samples": 10}
    policy_kwargs = TINY | kwargs.pop("policy_kwargs", {})
    dataset = make_arrays() if dataset is None else dataset
    return BEAR(policy, env, dataset, policy_kwargs=policy_kwargs, **defaults | kwargs).learn(steps)


def assert_same_networks(left, right, names=NETWORKS) -> None:
    for name in names:
        ours, theirs = getattr(left.policy, name).state_dict(), getattr(right.policy, name).state_dict()
        assert list(ours) == list(theirs)
        for key in ours:
            assert th.equal(ours[key], theirs[key]), f"{name}.{key}"
    # The algorithm trains the networks that act.
    assert right.actor is right.policy.actor and right.critic is right.policy.critic
    assert right.critic_target is right.policy.critic_target


def some_observations(n: int = 50) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 3)).astype(np.float32)


# --- datasets into replay buffers -------------------------------------------------------------------------------------


def dataset_of(n: int, terminations=(), truncations=(), **kwargs) -> OfflineDataset:
    """Row t has observation and reward t, leads to t + 0.5, and takes action t of [0, 10]."""
    steps = np.arange(n, dtype=np.float32)
    return OfflineDataset(
        observations=steps[:, None],
        next_observations=steps[:, None] + 0.5,
        actions=steps[:, None] % 11,
        rewards=steps,
        terminations=np.isin(steps, terminations),
        truncations=np.isin(steps, truncations),
        observation_space=spaces.Box(-np.inf, np.inf, (1,)),
        action_space=spaces.Box(0, 10, (1,)),
        **kwargs,
    )


def buffer_for(dataset: OfflineDataset, buffer_size: int = 60, n_envs: int = 1, buffer_class=ReplayBuffer, **kwargs):
    return buffer_class(buffer_size, dataset.observation_space, dataset.action_space, "cpu", n_envs=n_envs, **kwargs)


def test_dataset_into_a_replay_buffer_by_hand():
    # Episodes 0-1 (terminal), 2-3 (the data stops), 4-6.
    dataset = dataset_of(7, terminations=[1], episode_ends=[2, 4, 7])
    buffer = buffer_for(dataset, 20, n_envs=2)
    to_replay_buffer(dataset, buffer)
    assert (buffer.pos, buffer.full, buffer.size()) == (3, False, 3)
    # Environment 0 gets rows 0-2, environment 1 rows 3-5; row 6 is left out.
    np.testing.assert_array_equal(buffer.observations[:4, :, 0], [[0, 3], [1, 4], [2, 5], [0, 0]])
    np.testing.assert_array_equal(buffer.next_observations[:3, :, 0], [[0.5, 3.5], [1.5, 4.5], [2.5, 5.5]])
    np.testing.assert_array_equal(buffer.rewards[:3], [[0, 3], [1, 4], [2, 5]])
    # [0, 10] -> [-1, 1]
    np.testing.assert_allclose(buffer.actions[:3, :, 0], [[-1, -0.4], [-0.8, -0.2], [-0.6, 0]], atol=2e-6)
    # Row 1 is terminal; row 3 ends an episode, rows 2 and 5 an environment's rows: truncated.
    np.testing.assert_array_equal(buffer.dones[:4], [[0, 1], [1, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(buffer.timeouts[:4], [[0, 1], [0, 0], [1, 1], [0, 0]])


def test_sb3_bootstraps_truncations_only_and_joins_no_episodes():
    dataset = dataset_of(6, terminations=[1], truncations=[3])
    buffer = buffer_for(dataset)
    to_replay_buffer(dataset, buffer)
    np.testing.assert_array_equal(buffer._get_samples(np.arange(6)).dones[:, 0], [0, 1, 0, 0, 0, 0])

    n_step = buffer_for(dataset, buffer_class=NStepReplayBuffer, n_steps=3, gamma=0.1)
    to_replay_buffer(dataset, n_step)
    # The first online step, whose reward is 100.
    step = np.full((1, 1), 9.0)
    n_step.add(step, step, step, np.array([100.0]), np.array([False]), [{}])
    samples = n_step._get_samples(np.arange(6))
    np.testing.assert_allclose(samples.rewards[:, 0], [0.1, 1, 2.3, 3, 4.5, 5], rtol=1e-6)
    np.testing.assert_array_equal(samples.dones[:, 0], [1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(samples.next_observations[:, 0], [1.5, 1.5, 3.5, 3.5, 5.5, 5.5])


@settings(deadline=None, max_examples=150)
@given(data=st.data(), n_envs=st.integers(1, 3), room=st.integers(0, 5))
def test_into_a_replay_buffer_and_back_is_the_same_dataset(data, n_envs, room):
    n = data.draw(st.integers(n_envs, 20))
    terminations, truncations, cuts = (data.draw(st.lists(st.integers(0, n - 1), unique=True)) for _ in range(3))
    ends = sorted({*terminations, *truncations, *cuts, n - 1})
    dataset = dataset_of(n, terminations, truncations, episode_ends=np.array(ends) + 1)
    length = n // n_envs
    buffer = buffer_for(dataset, (length + room) * n_envs, n_envs)
    to_replay_buffer(dataset, buffer)
    # What comes next stands behind the dataset, or takes the place of its first row.
    assert (buffer.pos, buffer.full) == ((length, False) if room > 0 else (0, True))
    back = load_dataset(buffer)
    kept = length * n_envs
    assert len(back) == kept
    for name in ("observations", "next_observations", "rewards", "terminations"):
        np.testing.assert_array_equal(getattr(back, name), getattr(dataset, name)[:kept])
    np.testing.assert_allclose(back.actions, dataset.actions[:kept], atol=1e-5)
    ends_of_streams = {length * (env + 1) for env in range(n_envs)}
    assert set(back.episode_ends) == {end + 1 for end in ends if end < kept} | ends_of_streams
    # Each end is one or the other.
    np.testing.assert_array_equal(np.flatnonzero(back.terminations | back.truncations) + 1, back.episode_ends)
    assert not (back.terminations & back.truncations).any()


@pytest.mark.parametrize("n_envs", [1, 2])
def test_dict_observations_and_images_in_the_layout_of_the_buffer(n_envs):
    dataset = image_dataset(MIXED_SPACE)
    channel_first = spaces.Dict(image=spaces.Box(0, 255, (3, 36, 36), np.uint8), speed=MIXED_SPACE["speed"])
    buffer = DictReplayBuffer(30, channel_first, dataset.action_space, "cpu", n_envs=n_envs)
    to_replay_buffer(dataset, buffer)
    last = buffer.size() - 1
    assert last == 11 // n_envs - 1
    np.testing.assert_array_equal(
        buffer.observations["image"][last, 0], dataset.observations["image"][last].transpose(2, 0, 1)
    )
    back = from_replay_buffer(buffer)
    for ours, theirs in ((dataset.observations, back.observations), (dataset.next_observations, back.next_observations)):
        np.testing.assert_array_equal(theirs["image"], ours["image"][: len(back)].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(theirs["speed"], ours["speed"][: len(back)])


def test_discrete_observations_and_actions_stay_what_they_are():
    flags = np.array([0, 0, 1, 0])
    states = np.array([3, 1, 2, 0])
    dataset = OfflineDataset(
        states, states, np.zeros(4), states + 1, flags, 0 * flags, spaces.Discrete(5), spaces.Discrete(6)
    )
    buffer = buffer_for(dataset)
    to_replay_buffer(dataset, buffer)
    back = from_replay_buffer(buffer)
    np.testing.assert_array_equal(back.observations, states)
    np.testing.assert_array_equal(back.actions, dataset.actions)


def test_scaled_actions_have_a_finite_inverse_tanh():
    space = spaces.Box(np.array([-2, 0], np.float32), np.array([3, 1], np.float32))
    scaled = scale_actions(np.array([[-2, 1], [0.5, 0.25]], np.float32), space)
    np.testing.assert_allclose(scaled, [[-1, 1], [0, -0.5]], atol=2e-6)
    assert np.isfinite(np.arctanh(scaled)).all()
    assert scaled.dtype == np.float32


def test_buffers_that_cannot_take_the_dataset_are_refused():
    dataset = dataset_of(4)
    with pytest.raises(ValueError, match=r"buffer_size=3.*4 transitions"):
        to_replay_buffer(dataset, buffer_for(dataset, 3))
    with pytest.raises(DatasetError, match="4 transitions, fewer than the 5 environments"):
        to_replay_buffer(dataset, buffer_for(dataset, n_envs=5))
    with pytest.raises(ValueError, match="handle_timeout_termination=False"):
        to_replay_buffer(dataset, buffer_for(dataset, handle_timeout_termination=False))
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        to_replay_buffer(dataset, buffer_for(dataset, optimize_memory_usage=True, handle_timeout_termination=False))
    observations = spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), dataset.observation_space))
    with pytest.raises(ValueError, match=r"HerReplayBuffer.*keep_dataset=False"):
        to_replay_buffer(dataset, HerReplayBuffer(60, observations, dataset.action_space, env=vector_env()))
    full = buffer_for(dataset)
    to_replay_buffer(dataset, full)
    with pytest.raises(ValueError, match="already holds 4 transitions"):
        to_replay_buffer(dataset, full)


# --- BEAR into SAC ----------------------------------------------------------------------------------------------------


def test_to_sac_is_a_stock_sac_with_bears_networks_and_dataset():
    bear = trained(gamma=0.9, tau=0.02, batch_size=8, critic_learning_rate=2e-3)
    sac = bear.to_sac(vector_env(), ent_coef=0.2)
    assert type(sac) is SAC
    assert_same_networks(bear, sac)
    # Bear's own critics and targets differ, so that a mix-up shows.
    assert not th.equal(bear.critic.q_networks[0][0].weight, bear.critic_target.q_networks[0][0].weight)
    assert (sac.gamma, sac.tau, sac.batch_size, sac.lr_schedule(1), sac.ent_coef) == (0.9, 0.02, 8, 2e-3, 0.2)
    assert (sac.num_timesteps, sac.learning_starts) == (0, 0)
    assert type(sac.replay_buffer) is ReplayBuffer
    assert sac.buffer_size == 1_000_040
    kept, arrays = load_dataset(sac.replay_buffer), make_arrays()
    for name in ("observations", "next_observations", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(getattr(kept, name), arrays[name])
    np.testing.assert_allclose(kept.actions, arrays["actions"], atol=1e-5)
    # They share nothing.
    with th.no_grad():
        next(sac.actor.parameters()).add_(1)
    assert not th.equal(next(sac.actor.parameters()), next(bear.actor.parameters()))


def test_sac_acts_as_bear_does():
    bear = trained("Pendulum-v1", "bundled:pendulum-mixed-v0", steps=20, learning_rate=1e-2, critic_learning_rate=1e-2)
    sac = bear.to_sac("Pendulum-v1")
    observations = some_observations()
    np.testing.assert_array_equal(
        sac.predict(observations, deterministic=True)[0], bear.predict(observations, deterministic=True)[0]
    )
    returns = [evaluate_policy(model, make_vec_env("Pendulum-v1", 5, seed=3), 5)[0] for model in (bear, sac)]
    assert returns[0] == returns[1]


def test_sb3s_own_policy_acts_by_the_mean():
    bear = trained()
    sac = bear.to_sac(vector_env(), policy="MlpPolicy")
    assert type(sac.policy) is SACPolicy
    assert_same_networks(bear, sac)
    observations = some_observations()
    with th.no_grad():
        mean = th.tanh(bear.actor.get_action_dist_params(th.as_tensor(observations))[0]).numpy()
    # Actions lie in [-2, 3] x [0, 1].
    expected = np.array([-2, 0]) + np.array([5, 1]) * (mean + 1) / 2
    np.testing.assert_allclose(sac.predict(observations, deterministic=True)[0], expected, atol=1e-5)
    assert np.abs(bear.predict(observations, deterministic=True)[0] - expected).max() > 0.1


@pytest.mark.parametrize("policy", [None, "MlpPolicy"])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_sac_learns_on_and_what_it_sees_follows_the_dataset(policy, n_envs, tmp_path):
    sac = trained().to_sac(vector_env(n_envs), policy=policy, seed=0)
    buffer, offline_rows = sac.replay_buffer, 40 // n_envs
    before = buffer.rewards[:offline_rows].copy()
    actor = th.nn.utils.parameters_to_vector(sac.actor.parameters()).detach().clone()
    sac.learn(7 * n_envs)
    # One update after every step.
    assert (buffer.pos, sac._n_updates) == (offline_rows + 7, 7)
    assert not th.equal(th.nn.utils.parameters_to_vector(sac.actor.parameters()), actor)
    np.testing.assert_array_equal(buffer.rewards[:offline_rows], before)
    # The environment's reward is the sum of the action: these rows are what SAC did, in order.
    data = load_dataset(buffer)
    online = np.concatenate([np.arange(offline_rows, offline_rows + 7) + env * (offline_rows + 7) for env in range(n_envs)])
    np.testing.assert_allclose(data.rewards[online], data.actions[online].sum(axis=1), atol=1e-4)

    sac.save(tmp_path / "sac")
    loaded = SAC.load(tmp_path / "sac", device="cpu")
    assert type(loaded.policy) is type(sac.policy)
    observations = some_observations()
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], sac.predict(observations, deterministic=True)[0]
    )


def test_room_beside_the_dataset():
    env = vector_env(3)
    sac = trained().to_sac(env, buffer_size=100)
    # 40 rows take 14 steps of three environments at most, and 100 // 3 = 33 are asked for.
    assert sac.buffer_size == 3 * (14 + 33)
    assert (sac.replay_buffer.buffer_size, sac.replay_buffer.pos) == (47, 13)


def test_without_the_dataset():
    bear = trained()
    sac = bear.to_sac(vector_env(), keep_dataset=False)
    assert sac.replay_buffer.size() == 0
    # SAC's own defaults.
    assert (sac.buffer_size, sac.learning_starts) == (1_000_000, 100)
    assert_same_networks(bear, sac)


@pytest.mark.parametrize("make_env", [lambda: "Pendulum-v1", lambda: gym.make("Pendulum-v1"), lambda: None])
def test_env_may_be_an_id_an_env_or_bears_own(make_env):
    bear = trained(make_vec_env("Pendulum-v1", 2), "bundled:pendulum-mixed-v0")
    env = make_env()
    sac = bear.to_sac(env, buffer_size=100)
    assert sac.n_envs == (2 if env is None else 1)
    sac.learn(4)


def test_a_model_trained_without_environment_goes_online_in_one_whose_bounds_it_did_not_know():
    arrays = {**load_dataset("bundled:pendulum-mixed-v0").__dict__, "observation_space": None}
    bear = trained(None, arrays)
    assert np.isinf(bear.observation_space.high).all()
    sac = bear.to_sac("Pendulum-v1", buffer_size=100)
    assert np.isfinite(sac.observation_space.high).all()
    assert_same_networks(bear, sac)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize(("space", "policy"), [(IMAGE_SPACE, "CnnPolicy"), (MIXED_SPACE, "MultiInputPolicy")])
def test_images_and_dicts_there_and_back(space, policy, n_envs):
    bear = trained(None, image_dataset(space), policy, n_action_samples=5, batch_size=4)
    env = DummyVecEnv([lambda: Env(space, bear.action_space)] * n_envs)
    for sac_policy in (None, policy, SACPolicy):
        sac = bear.to_sac(env, policy=sac_policy, buffer_size=40, batch_size=4)
        assert_same_networks(bear, sac)
        assert_same_networks(sac, BEAR.from_sac(sac))
        # As the environment gives them, channel last.
        observations = {k: v[:2] for k, v in env.reset().items()} if isinstance(space, spaces.Dict) else env.reset()
        if sac_policy is None:
            ours, theirs = (sac.predict(observations, deterministic=True), bear.predict(observations, deterministic=True))
            np.testing.assert_array_equal(ours[0], theirs[0])
        sac.learn(4)
        again = BEAR.from_sac(sac, warmup_fraction=0).learn(2)
        assert len(again.dataset) == 11 - 11 % n_envs + 4


def normalized(n_envs: int = 1, **kwargs) -> VecNormalize:
    return VecNormalize(vector_env(n_envs), **kwargs)


def test_vec_normalize_gives_sac_the_statistics_that_bear_learned_with():
    bear = trained(normalized())
    env = normalized(2)
    sac = bear.to_sac(env)
    np.testing.assert_allclose(env.obs_rms.mean, make_arrays()["observations"].mean(axis=0), atol=1e-6)
    assert env.ret_rms.var == bear.get_vec_normalize_env().ret_rms.var != 1
    assert env.obs_rms is not bear.get_vec_normalize_env().obs_rms
    # SAC trains them further; BEAR's stay.
    mean = bear.get_vec_normalize_env().obs_rms.mean.copy()
    sac.learn(4)
    assert env.training and env.obs_rms.count == pytest.approx(40 + 6)
    np.testing.assert_array_equal(bear.get_vec_normalize_env().obs_rms.mean, mean)
    # The buffer holds what the environment said.
    np.testing.assert_array_equal(sac.replay_buffer.observations[:20, 0], make_arrays()["observations"][:20])

    same = bear.to_sac(None)
    assert same.get_vec_normalize_env() is bear.get_vec_normalize_env()


def test_a_loaded_model_takes_the_statistics_that_come_with_the_environment(tmp_path):
    save_dataset(load_dataset(make_arrays()), tmp_path / "data.npz")
    bear = trained(normalized(), tmp_path / "data.npz")
    bear.save(tmp_path / "bear")
    bear.get_vec_normalize_env().save(tmp_path / "statistics.pkl")
    loaded = BEAR.load(tmp_path / "bear")
    for _ in range(2):
        sac = loaded.to_sac(VecNormalize.load(tmp_path / "statistics.pkl", vector_env()))
        np.testing.assert_array_equal(sac.get_vec_normalize_env().obs_rms.mean, bear.get_vec_normalize_env().obs_rms.mean)


@pytest.mark.parametrize(
    ("bears", "online", "words"),
    [
        (normalized, vector_env, r"off, but .* learned with \(norm_obs=True, norm_reward=True\)"),
        (vector_env, normalized, r"\(norm_obs=True, norm_reward=True\), but .* learned with off"),
        (
            normalized,
            lambda: normalized(norm_reward=False),
            r"norm_reward=False\), but .* learned with \(norm_obs=True, norm_reward=True\)",
        ),
    ],
)
def test_an_environment_that_normalises_otherwise_is_refused(bears, online, words):
    with pytest.raises(ValueError, match=words):
        trained(bears()).to_sac(online())


@pytest.mark.parametrize(
    ("observation_space", "action_space", "words"),
    [
        (spaces.Box(-1, 1, (4,)), None, r"env has observation_space=Box\(-1.0, 1.0, \(4,\)"),
        (spaces.Dict(x=spaces.Box(-1, 1, (3,))), None, "env has observation_space=Dict"),
        (None, spaces.Box(-1, 1, (2,)), r"env has .*action_space=Box\(-1.0, 1.0, \(2,\)"),
        (None, spaces.Box(-1, 1, (1,)), "env has .*action_space="),
        (None, spaces.Discrete(2), r"env has .*action_space=Discrete\(2\)"),
    ],
)
def test_spaces_that_differ_are_refused(observation_space, action_space, words):
    arrays = make_arrays()
    env = Env(observation_space or arrays["observation_space"], action_space or arrays["action_space"])
    with pytest.raises(ValueError, match=words):
        trained().to_sac(env)


def test_an_image_is_no_vector():
    pixels = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    bear = trained(None, image_dataset(pixels), "CnnPolicy", batch_size=4)
    with pytest.raises(ValueError, match="env has observation_space="):
        bear.to_sac(Env(spaces.Box(-1, 1, (3, 36, 36)), bear.action_space))


def test_dicts_are_compared_key_by_key():
    bear = trained(None, image_dataset(MIXED_SPACE), "MultiInputPolicy", batch_size=4)
    with pytest.raises(ValueError, match="env has observation_space=Dict"):
        bear.to_sac(Env(spaces.Dict({**MIXED_SPACE.spaces, "speed": spaces.Box(-1, 1, (3,))}), bear.action_space))


def test_no_environment_and_no_dataset_are_named(tmp_path):
    bear = trained()
    for env in (None, bear.env):
        with pytest.raises(ValueError, match=r"env=None.*pass env="):
            bear.to_sac(env)
    bear.save(tmp_path / "bear")
    loaded = BEAR.load(tmp_path / "bear")
    with pytest.raises(ValueError, match=r"env=None.*pass env="):
        loaded.to_sac()
    with pytest.raises(ValueError, match=r"keep_dataset=True.*no dataset"):
        loaded.to_sac(vector_env())
    assert_same_networks(bear, loaded.to_sac(vector_env(), keep_dataset=False))
    assert load_dataset(BEAR.load(tmp_path / "bear", dataset=make_arrays()).to_sac(vector_env()).replay_buffer)


def test_a_loaded_model_finds_its_dataset_by_its_path(tmp_path):
    save_dataset(load_dataset(make_arrays()), tmp_path / "data.npz")
    trained(None, tmp_path / "data.npz").save(tmp_path / "bear")
    assert BEAR.load(tmp_path / "bear").to_sac(vector_env()).replay_buffer.size() == 40
    save_dataset(load_dataset(make_arrays() | {"action_space": spaces.Box(-9, 9, (2,))}), tmp_path / "data.npz")
    with pytest.raises(DatasetError, match="action_space of the dataset"):
        BEAR.load(tmp_path / "bear").to_sac(vector_env())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"use_sde": True}, "use_sde=True"),
        ({"policy_kwargs": {"n_critics": 5}}, "n_critics=5"),
        ({"policy_kwargs": {"net_arch": [32]}}, r"net_arch=\[32\]"),
        ({"replay_buffer_kwargs": {"handle_timeout_termination": False}}, "handle_timeout_termination=False"),
    ],
)
@pytest.mark.parametrize("policy", [None, "MlpPolicy"])
def test_arguments_that_sac_cannot_have_are_refused(policy, kwargs, words):
    with pytest.raises(ValueError, match=words):
        trained().to_sac(vector_env(), policy=policy, **kwargs)


@pytest.mark.parametrize("policy", [None, "MlpPolicy"])
@pytest.mark.parametrize(
    "policy_kwargs",
    [{"n_critics": 1}, {"n_critics": 3, "activation_fn": th.nn.Tanh}, {"net_arch": {"pi": [8], "qf": [12, 5]}}],
)
def test_every_architecture_goes_there_and_back(policy, policy_kwargs):
    bear = trained(policy_kwargs=policy_kwargs)
    sac = bear.to_sac(vector_env(), policy=policy, policy_kwargs={"optimizer_class": th.optim.SGD})
    assert type(sac.actor.optimizer) is type(sac.critic.optimizer) is th.optim.SGD
    assert_same_networks(bear, sac)
    observations = th.as_tensor(some_observations())
    assert th.equal(sac.actor(observations, deterministic=True), bear.actor(observations, deterministic=True))
    sac.learn(2)
    assert_same_networks(sac, BEAR.from_sac(sac))


# --- SAC into BEAR ----------------------------------------------------------------------------------------------------


def stock_sac(env=None, **kwargs) -> SAC:
    defaults = {"learning_starts": 5, "buffer_size": 1000, "seed": 0, "batch_size": 8, "device": "cpu"}
    policy_kwargs = {"net_arch": [16], "n_critics": 3} | kwargs.pop("policy_kwargs", {})
    return SAC("MlpPolicy", env or vector_env(2), policy_kwargs=policy_kwargs, **defaults | kwargs).learn(30)


def test_from_sac_starts_from_its_networks_and_its_replay_buffer():
    sac = stock_sac(gamma=0.9, tau=0.02, learning_rate=5e-4)
    bear = BEAR.from_sac(sac, warmup_fraction=0, n_action_samples=7, policy_kwargs={"vae_net_arch": [8]})
    assert_same_networks(sac, bear)
    assert (bear.gamma, bear.tau, bear.batch_size, bear.critic_learning_rate) == (0.9, 0.02, 8, 5e-4)
    assert len(bear.critic.q_networks) == 3
    assert bear.get_env() is sac.get_env()
    assert bear.behavior_vae.encoder[0].out_features == 8
    data = load_dataset(sac.replay_buffer)
    assert len(data) == 30
    np.testing.assert_array_equal(bear.dataset.actions, data.actions)
    actor = th.nn.utils.parameters_to_vector(sac.actor.parameters()).detach().clone()
    bear.learn(3)
    # BEAR has a copy.
    assert th.equal(th.nn.utils.parameters_to_vector(sac.actor.parameters()), actor)
    assert not th.equal(th.nn.utils.parameters_to_vector(bear.actor.parameters()), actor)


@pytest.mark.parametrize(("space", "policy"), [(IMAGE_SPACE, "CnnPolicy"), (MIXED_SPACE, "MultiInputPolicy")])
def test_from_sac_with_images_and_dicts(space, policy):
    env = DummyVecEnv([lambda: Env(space, spaces.Box(0, 10, (1,)))] * 2)
    kwargs = {"policy_kwargs": {"net_arch": [8]}, "batch_size": 4, "buffer_size": 40, "seed": 0, "device": "cpu"}
    sac = SAC(policy, env, learning_starts=4, **kwargs).learn(10)
    bear = BEAR.from_sac(sac, warmup_fraction=0, policy_kwargs={"vae_net_arch": [8]})
    assert_same_networks(sac, bear)
    assert len(bear.learn(2).dataset) == 10


@pytest.mark.parametrize("own_env", [True, False])
def test_from_sac_takes_a_copy_of_its_statistics(own_env):
    """They belong to its networks; and SAC goes on adding to its own."""
    env = normalized()
    sac = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, learning_starts=5, device="cpu").learn(30)
    env.obs_rms.mean = env.obs_rms.mean + 1.0  # other than the replay buffer's
    mean, count = env.obs_rms.mean.copy(), env.obs_rms.count
    bear = BEAR.from_sac(sac, None if own_env else normalized(), warmup_fraction=0).learn(2)
    own = bear.get_vec_normalize_env()
    assert own is not env and not own.training and env.training
    np.testing.assert_array_equal(own.obs_rms.mean, mean)
    np.testing.assert_array_equal(env.obs_rms.mean, mean)
    assert own.ret_rms.var == env.ret_rms.var
    sac.learn(5, reset_num_timesteps=False)
    assert env.obs_rms.count > count and own.obs_rms.count == count
    with pytest.raises(ValueError, match="VecNormalize is off, but this BEAR learned with"):
        BEAR.from_sac(sac, vector_env()).learn(1)


def test_there_and_back_is_the_same_bear():
    bear = trained()
    again = BEAR.from_sac(bear.to_sac(vector_env()))
    assert_same_networks(bear, again, (*NETWORKS, "behavior_vae"))
    observations = some_observations()
    np.testing.assert_array_equal(
        again.predict(observations, deterministic=True)[0], bear.predict(observations, deterministic=True)[0]
    )
    assert len(again.dataset) == 40
    # Another number of candidates needs other noise.
    assert BEAR.from_sac(bear.to_sac(vector_env()), n_action_samples=3).policy.candidate_noise.shape == (1, 3, 2)


def test_a_loaded_sac_needs_its_replay_buffer(tmp_path):
    sac = stock_sac()
    sac.save(tmp_path / "sac")
    sac.save_replay_buffer(tmp_path / "replay_buffer.pkl")
    loaded = SAC.load(tmp_path / "sac", device="cpu")
    with pytest.raises(DatasetError, match=r"empty replay buffer.*load_replay_buffer\(path\)"):
        BEAR.from_sac(loaded)
    assert len(BEAR.from_sac(loaded, dataset=make_arrays()).dataset) == 40
    loaded.load_replay_buffer(tmp_path / "replay_buffer.pkl")
    # No environment came with it: the data's spaces do.
    bear = BEAR.from_sac(loaded, warmup_fraction=0).learn(2)
    assert_same_networks(sac, BEAR.from_sac(loaded))
    assert len(bear.dataset) == 30


def test_models_that_bear_cannot_take_are_refused():
    with pytest.raises(ValueError, match="sac_model is a TD3"):
        BEAR.from_sac(TD3("MlpPolicy", vector_env()))
    with pytest.raises(ValueError, match="use_sde=True"):
        BEAR.from_sac(SAC("MlpPolicy", vector_env(), use_sde=True))
    with pytest.raises(ValueError, match="n_critics=2"):
        BEAR.from_sac(stock_sac(), policy_kwargs={"n_critics": 2})
    # The VAE of a model from to_sac is there already, too.
    with pytest.raises(ValueError, match=r"vae_net_arch=\[5\]"):
        BEAR.from_sac(trained().to_sac(vector_env()), policy_kwargs={"vae_net_arch": [5]})
    assert isinstance(BEAR.from_sac(stock_sac()).policy, BEARPolicy)


def test_observations_are_normalised_by_the_networks_of_sac_too(tmp_path):
    model = BEAR(
        "MlpPolicy", "Pendulum-v1", normalize_observations=True, policy_kwargs=TINY, warmup_fraction=0, device="cpu"
    )
    model.learn(5)
    observations = load_dataset("bundled:pendulum-mixed-v0").observations[:30]
    acted = model.predict(observations, deterministic=True)[0]
    sac = model.to_sac(buffer_size=1000)
    np.testing.assert_array_equal(sac.predict(observations, deterministic=True)[0], acted)
    stock = model.to_sac(policy="MlpPolicy", keep_dataset=False)
    obs = th.from_numpy(observations.copy())
    th.testing.assert_close(stock.actor(obs, deterministic=True), model.actor(obs, deterministic=True))
    sac.learn(3)
    sac.save(tmp_path / "sac")
    loaded = SAC.load(tmp_path / "sac", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], sac.predict(observations, deterministic=True)[0]
    )
    back = BEAR.from_sac(sac)
    np.testing.assert_array_equal(
        back.predict(observations, deterministic=True)[0], sac.predict(observations, deterministic=True)[0]
    )


@pytest.mark.parametrize("loaded", [False, True])
def test_rewards_that_the_buffer_normalised_are_normalised_by_vec_normalize(tmp_path, loaded):
    kwargs = {"replay_buffer_kwargs": {"normalize_rewards": True}, "policy_kwargs": TINY, "warmup_fraction": 0, "n_steps": 1}
    model = BEAR("MlpPolicy", "Pendulum-v1", "bundled:pendulum-mixed-v0", **kwargs).learn(1)
    if loaded:
        model.save(tmp_path / "model")
        model = BEAR.load(tmp_path / "model", env=make_vec_env("Pendulum-v1"))
    sac = model.to_sac(buffer_size=1000)
    theirs = sac.replay_buffer._get_samples(np.arange(100), sac.get_vec_normalize_env())
    np.testing.assert_allclose(theirs.rewards, model.replay_buffer.get(np.arange(100)).rewards, rtol=1e-4)
    assert theirs.rewards.std() < 0.5 * load_dataset("bundled:pendulum-mixed-v0").rewards[:100].std()
    sac.learn(3)
    assert not sac.get_vec_normalize_env().training


def test_rewards_online_are_normalised_with_the_models_discount_factor_and_change_nothing_of_its_own():
    kwargs = {"replay_buffer_kwargs": {"normalize_rewards": True}, "gamma": 0.9}
    bear = trained(**kwargs)
    assert bear.to_sac(vector_env()).get_vec_normalize_env().gamma == 0.9
    variance = np.array(bear.replay_buffer.return_rms.var)
    # An environment's own wrapper, which normalises nothing until then, goes on gathering.
    sac = bear.to_sac(VecNormalize(vector_env(), norm_obs=False, norm_reward=False))
    sac.learn(4)
    assert bear.replay_buffer.return_rms.var == variance


@pytest.mark.parametrize(("low", "high"), [([-2, 0], [3, 2]), ([-2, -1], [3, 1])])
def test_an_action_space_with_another_bound_is_another(low, high):
    space = spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    with pytest.raises(ValueError, match=r"env has .*action_space="):
        trained().to_sac(Env(make_arrays()["observation_space"], space))
    with pytest.raises(DatasetError, match="action_space of the dataset"):
        check_spaces(load_dataset(make_arrays()), make_arrays()["observation_space"], space)


def test_unscaled_actions_are_within_their_bounds():
    space = spaces.Box(np.array([-2, 0], np.float32), np.array([3, 1], np.float32))
    actions = unscale_actions(np.array([[1 + 5e-5, -1 - 5e-5]], np.float32), space)
    assert actions.tolist() == [[3.0, 0.0]]
