"""BEAR: every way to make one, every argument, the update's gradients, and what is saved."""

import copy
import math
import warnings

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import TINY, make_arrays
from gymnasium import spaces
from gymnasium.wrappers import RescaleAction, TimeAwareObservation
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras import BEAR, PUBLISHED_PRESET, DatasetError, OfflineDataset, load_dataset, save_dataset
from sb3_pg_extras.bear import bear as bear_module
from sb3_pg_extras.bear import losses
from sb3_pg_extras.datasets import collect_dataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.offline.losses import mixed_target_q_values
from sb3_pg_extras.offline.policies import q_values

NETWORKS = ("vae", "critic", "critic_target", "actor", "alpha")


def tiny_bear(dataset=None, **kwargs) -> BEAR:
    policy_kwargs = TINY | kwargs.pop("policy_kwargs", {})
    defaults = {"seed": 0, "batch_size": 16, "warmup_fraction": 0, "device": "cpu"}
    return BEAR(
        "MlpPolicy", None, make_arrays() if dataset is None else dataset, policy_kwargs=policy_kwargs, **defaults | kwargs
    )


def weights(model: BEAR) -> dict[str, th.Tensor]:
    flat = th.nn.utils.parameters_to_vector
    modules = {"vae": model.behavior_vae, "critic": model.critic, "critic_target": model.critic_target, "actor": model.actor}
    return {name: flat(module.parameters()).detach().clone() for name, module in modules.items()} | {
        "alpha": model.log_alpha.detach().clone()
    }


def logged(model: BEAR) -> dict[str, float]:
    """The line of the log that is due."""
    line: dict[str, float] = {}
    model.logger.dump = lambda step: line.update(model.logger.name_to_value)
    model.dump_logs()
    return line


def changed(left: BEAR, right: BEAR) -> set[str]:
    a, b = weights(left), weights(right)
    return {name for name in NETWORKS if not th.equal(a[name], b[name])}


# --- ways to make one -------------------------------------------------------------------------------------------------


def test_learns_from_the_bundled_dataset_as_the_readme_writes_it():
    env = gym.make("Pendulum-v1")
    model = BEAR("MlpPolicy", env, policy_kwargs=TINY, warmup_fraction=0.5)
    assert model.learn(3) is model
    assert model.num_timesteps == 3
    assert model.dataset == "bundled:pendulum-mixed-v0"
    assert model.replay_buffer.size() == 30_000


@pytest.mark.parametrize("make_env", [lambda: "Pendulum-v1", lambda: make_vec_env("Pendulum-v1", n_envs=3), lambda: None])
def test_env_may_be_a_string_several_or_none(make_env):
    model = BEAR("MlpPolicy", make_env(), "bundled:pendulum-mixed-v0", policy_kwargs=TINY, warmup_fraction=0, seed=0).learn(
        4
    )
    assert model.num_timesteps == 4
    action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
    assert action.shape == (1,)


def test_without_any_dataset_random_steps_are_collected_with_a_warning():
    model = BEAR("MlpPolicy", "MountainCarContinuous-v0", n_collect_steps=120, policy_kwargs=TINY, warmup_fraction=0, seed=0)
    with pytest.warns(UserWarning, match=r"120 uniformly random steps in MountainCarContinuous-v0.*dataset="):
        model.learn(2)
    assert model.replay_buffer.size() == 120


@pytest.mark.parametrize("wrap", [lambda env: RescaleAction(env, -1.0, 1.0), TimeAwareObservation])
def test_a_wrapped_environment_whose_spaces_the_bundled_dataset_does_not_have_is_stepped(wrap):
    env = wrap(gym.make("Pendulum-v1"))
    model = BEAR("MlpPolicy", env, n_collect_steps=50, policy_kwargs=TINY, warmup_fraction=0)
    with pytest.warns(UserWarning, match="50 uniformly random steps in Pendulum-v1"):
        model.learn(1)
    assert model.replay_buffer.size() == 50


def test_neither_env_nor_dataset_is_refused():
    with pytest.raises(ValueError, match=r"env=.*dataset="):
        BEAR("MlpPolicy", None)


def test_discrete_action_spaces_are_refused_by_name():
    with pytest.raises(AssertionError, match="Discrete"):
        BEAR("MlpPolicy", "CartPole-v1")
    discrete = make_arrays() | {"actions": np.zeros(40, int), "action_space": spaces.Discrete(2)}
    with pytest.raises(AssertionError, match="Discrete"):
        BEAR("MlpPolicy", None, discrete)


OTHER_OBSERVATIONS = {"observation_space": spaces.Box(-1, 1, (4,))} | dict.fromkeys(
    ("observations", "next_observations"), np.zeros((40, 4))
)
OTHER_ACTIONS = {"action_space": spaces.Box(-5, 5, (2,))}


@pytest.mark.parametrize(("change", "word"), [(OTHER_OBSERVATIONS, "observation_space"), (OTHER_ACTIONS, "action_space")])
def test_spaces_that_differ_from_the_environments_are_refused_before_training(change, word):
    class Env(gym.Env):
        observation_space, action_space = make_arrays()["observation_space"], make_arrays()["action_space"]

    BEAR("MlpPolicy", Env(), make_arrays(), policy_kwargs=TINY)
    with pytest.raises(DatasetError, match=word):
        BEAR("MlpPolicy", Env(), make_arrays() | change)


def test_cnn_and_multi_input_policies(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (20, 36, 36, 3), dtype=np.uint8)
    rest = {"actions": rng.uniform(-1, 1, (20, 1)), "rewards": np.zeros(20), "action_space": spaces.Box(-1, 1, (1,))}
    rest |= {"terminations": np.zeros(20), "truncations": np.zeros(20)}
    kwargs = {"policy_kwargs": TINY, "warmup_fraction": 0, "batch_size": 4, "n_action_samples": 5}

    model = BEAR("CnnPolicy", None, {"observations": image, "next_observations": image, **rest}, **kwargs).learn(2)
    assert model.observation_space.shape == (3, 36, 36)
    # What the critic saw is the image, channel first.
    np.testing.assert_array_equal(model.replay_buffer.observations[7, 0], image[7].transpose(2, 0, 1))
    assert model.predict(image[:2].transpose(0, 3, 1, 2))[0].shape == (2, 1)

    both = {"image": image, "speed": rng.normal(size=(20, 2)).astype(np.float32)}
    model = BEAR("MultiInputPolicy", None, {"observations": both, "next_observations": both, **rest}, **kwargs).learn(2)
    model.save(tmp_path / "model")
    observation = {"image": image[:2].transpose(0, 3, 1, 2), "speed": both["speed"][:2]}
    loaded = BEAR.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0]
    )
    with pytest.raises(ValueError, match="MultiInputPolicy"):
        BEAR("MlpPolicy", None, {"observations": both, "next_observations": both, **rest})


class Learned(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, features_dim=4)
        self.linear = th.nn.Linear(3, 4)

    def forward(self, observations):
        return self.linear(observations)


@pytest.mark.parametrize("shared", [False, True])
def test_shared_features_learn_from_the_actor_alone(shared):
    model = tiny_bear(policy_kwargs={"share_features_extractor": shared, "features_extractor_class": Learned})
    assert (model.critic.features_extractor is model.actor.features_extractor) == shared
    batch = model.replay_buffer.sample(16)
    model._critic_loss(batch, {})[0].backward()
    learned = model.critic.features_extractor.extractor.linear.weight.grad is not None
    assert learned != shared
    model._actor_loss(batch, model._kind_of_step(), {})[0].backward()
    assert model.actor.features_extractor.extractor.linear.weight.grad.abs().sum() > 0


class Pretrained(Learned):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.requires_grad_(False)


@pytest.mark.parametrize("shared", [False, True])
def test_features_that_do_not_learn_stay(shared):
    model = tiny_bear(policy_kwargs={"share_features_extractor": shared, "features_extractor_class": Pretrained})
    start, features = weights(model), model.actor.features_extractor.extractor.linear.weight.clone()
    after = weights(model.learn(2))
    assert all(not th.equal(start[name], after[name]) for name in NETWORKS)
    assert th.equal(features, model.actor.features_extractor.extractor.linear.weight)


def test_vectors_are_normalised_unless_vec_normalize_does_it():
    assert tiny_bear().normalize_observations
    arrays = make_arrays()
    for norm_obs in (True, False):
        env = VecNormalize(tiny_bear(arrays).get_env(), norm_obs=norm_obs)
        model = BEAR("MlpPolicy", env, arrays, policy_kwargs=TINY, device="cpu")
        assert model.normalize_observations is not norm_obs
    assert not tiny_bear(normalize_observations=False).normalize_observations
    assert not tiny_bear(**PUBLISHED_PRESET | {"policy_kwargs": TINY}).normalize_observations


def test_gsde_is_refused():
    with pytest.raises(ValueError, match="use_sde"):
        tiny_bear(policy_kwargs={"use_sde": True})


# --- the update -------------------------------------------------------------------------------------------------------


def actor_gradient(model: BEAR, **settings) -> th.Tensor:
    """Gradient of the actor in one update from the same random numbers, with some settings replaced."""
    model = copy.copy(model)
    for name, value in settings.items():
        setattr(model, name, value)
    model.generator.manual_seed(1)
    batch = model.replay_buffer.sample(16, generator=model.generator)
    loss, *_ = model._actor_loss(batch, model._kind_of_step(), {})
    return th.cat([gradient.flatten() for gradient in th.autograd.grad(loss, list(model.actor.parameters()))])


@pytest.mark.parametrize(
    "settings",
    [{}, {"mmd_estimator": "biased"}, {"mmd_estimator": "unbiased"}, {"divergence": "kl"}, {"mmd_kernel": "gaussian"}],
)
def test_actor_gradient_is_the_sum_of_its_two_parts(settings):
    model = tiny_bear(alpha=7.0, **settings).learn(5)
    full = actor_gradient(model)
    q_part = actor_gradient(model, log_alpha=th.tensor([-math.inf]))  # alpha = 0
    constraint_part = actor_gradient(model, warmup_steps=10**9)
    assert constraint_part.norm() > 1e-3
    assert q_part.norm() > 1e-3
    # d3rlpy >= 2.3 back-propagates -MMD before +MMD, and is left with the Q part alone.
    assert (full - q_part).norm() > 0.9 * constraint_part.norm()
    th.testing.assert_close(full, q_part + constraint_part, rtol=1e-4, atol=1e-6)


def test_actor_update_raises_q_and_lowers_the_divergence():
    def after(steps: int, **kwargs) -> tuple[float, float]:
        model = tiny_bear(learning_rate=1e-2, critic_learning_rate=0.0, vae_learning_rate=0.0, **kwargs).learn(
            steps, log_interval=None
        )
        logged: dict[str, th.Tensor] = {}
        model._actor_loss(model.replay_buffer.sample(40), model._kind_of_step(), logged)
        return logged["actor_q_value"].item(), logged["mmd"].item()

    q_before, mmd_before = after(1, alpha=0.0)
    q_after, mmd_after = after(200, alpha=0.0)
    assert q_after > q_before + 0.01
    assert after(200, alpha=1000.0)[1] < mmd_before
    assert after(200, alpha=1000.0)[1] < mmd_after


def test_gradients_stay_where_they_belong():
    """Each loss reaches its own network alone; of the actor's, what reaches the critics is not asked for."""
    model = tiny_bear()
    batch, step = model.replay_buffer.sample(16), model._kind_of_step()
    modules = {"vae": model.behavior_vae, "critic": model.critic, "critic_target": model.critic_target, "actor": model.actor}
    losses_of = {
        "vae": lambda: model._vae_loss(batch, {}),
        "critic": lambda: model._critic_loss(batch, {})[0],
        "actor": lambda: model._actor_loss(batch, step, {})[0],
    }
    for name, loss in losses_of.items():
        for module in modules.values():
            module.zero_grad()
        model.log_alpha.grad = None
        loss().backward(inputs=list(model.actor.parameters()) if name == "actor" else None)
        reached = {key for key, module in modules.items() if any(p.grad is not None for p in module.parameters())}
        assert reached == {name}
        assert model.log_alpha.grad is None
    model.learn(1)
    before = [p.grad.clone() for p in model.critic.parameters()]
    assert all(p.grad is None for p in model.critic_target.parameters())
    _, divergence, _ = model._actor_loss(batch, step, {})
    losses.alpha_loss(model.log_alpha, divergence, 0.05).backward()
    assert model.log_alpha.grad is not None
    assert all(th.equal(a, b.grad) for a, b in zip(before, model.critic.parameters(), strict=True))


def test_targets_are_the_target_critics_at_the_policys_next_actions(monkeypatch):
    model, seen = tiny_bear(n_target_samples=3), []
    with th.no_grad():
        for network in model.critic_target.q_networks:  # a constant that no other network gives
            network[-1].weight.zero_()
            network[-1].bias.fill_(7.0)
    raw_actions, target = model.policy.raw_actions, mixed_target_q_values
    monkeypatch.setattr(model.policy, "raw_actions", lambda *args: seen.append(args) or raw_actions(*args))
    monkeypatch.setattr("sb3_pg_extras.bear.bear.mixed_target_q_values", lambda *args: seen.append(args) or target(*args))
    batch = model.replay_buffer.sample(16)
    model._critic_loss(batch, {})
    (obs, noise), (rewards, dones, next_q_values, *_) = seen
    assert th.equal(obs, batch.next_observations)
    assert noise.shape == (16, 3, 2)
    assert th.equal(next_q_values, th.full((2, 16, 3), 7.0))
    assert th.equal(rewards, batch.rewards)
    assert th.equal(dones, batch.dones)


def test_vae_bounds_its_latents():
    vae, obs = tiny_bear().behavior_vae, th.zeros(5, 3)
    extreme, half = (vae.raw_actions(obs, th.full((5, 2, vae.latent_dim), value)) for value in (100.0, 0.5))
    assert th.equal(extreme, half)
    for bias, expected in ((100.0, 15.0), (-100.0, -4.0)):
        with th.no_grad():
            vae.encoder[-1].bias.fill_(bias)
        _, _, log_std = vae(obs, th.zeros(5, 2), th.zeros(5, vae.latent_dim))
        assert th.equal(log_std, th.full_like(log_std, expected))


def test_scaled_actions_stay_inside_the_tanh(arrays):
    arrays["actions"][:2] = [[-2, 0], [3, 1]]  # the corners of the action space
    stored = tiny_bear(arrays).replay_buffer.actions[:2, 0]
    np.testing.assert_allclose(stored, [[-1, -1], [1, 1]], atol=1e-5)
    assert np.isfinite(np.arctanh(stored)).all()


def test_target_critics_follow_by_tau():
    model = tiny_bear(tau=0.25)
    before = weights(model)["critic_target"]
    model.learn(1)
    after = weights(model)
    th.testing.assert_close(after["critic_target"], 0.75 * before + 0.25 * after["critic"])


def test_target_critics_keep_no_graph_of_their_updates():
    """A graph that grows by a node per step and parameter is memory that never comes back."""
    model = tiny_bear().learn(3)
    assert all(tensor.grad_fn is None for tensor in model.critic_target.parameters())


def test_a_deep_copy_learns_as_the_model_does():
    model = tiny_bear(tau=0.5).learn(2)
    copied = copy.deepcopy(model)
    model.learn(3, reset_num_timesteps=False)
    copied.learn(3, reset_num_timesteps=False)
    assert changed(model, copied) == set()


def test_target_critics_take_over_batch_statistics():
    class Normalized(FlattenExtractor):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.norm = th.nn.BatchNorm1d(self.features_dim)

        def forward(self, observations):
            return self.norm(super().forward(observations))

    model = tiny_bear(policy_kwargs={"features_extractor_class": Normalized}).learn(3)
    stats = model.critic.features_extractor.extractor.norm.running_mean
    assert stats.abs().sum() > 0
    th.testing.assert_close(model.critic_target.features_extractor.extractor.norm.running_mean, stats)


def test_critics_solve_a_known_problem():
    """One state, reward 1: terminated ends are worth 1, truncated ends bootstrap and are worth 1 / (1 - gamma)."""

    def value(terminated: bool) -> float:
        n = 64
        arrays = make_arrays(n) | {
            "rewards": np.ones(n),
            "terminations": np.full(n, terminated),
            "truncations": np.full(n, not terminated),
        }
        arrays |= {"observations": np.zeros((n, 3)), "next_observations": np.zeros((n, 3))}
        model = tiny_bear(arrays, gamma=0.5, tau=0.2, critic_learning_rate=1e-2).learn(400)
        actions = th.as_tensor(model.replay_buffer.actions)
        return q_values(model.critic, th.zeros(n, 3), actions).mean().item()

    assert value(terminated=True) == pytest.approx(1.0, abs=0.05)
    assert value(terminated=False) == pytest.approx(2.0, abs=0.1)


# --- arguments --------------------------------------------------------------------------------------------------------

KNOBS = [
    # (argument, value, the networks that differ from the default's after one step past the warm-up)
    ({"vae_learning_rate": 1e-2}, {"vae", "actor"}),
    # The KL term trains the encoder only, and the actor sees only what the decoder makes.
    ({"vae_kl_weight": 50.0}, {"vae"}),
    ({"critic_learning_rate": 1e-2}, {"critic", "critic_target", "actor"}),
    ({"target_q_mixture": 0.0}, {"critic", "critic_target", "actor"}),
    ({"gamma": 0.5}, {"critic", "critic_target", "actor"}),
    ({"n_target_samples": 4}, {"critic", "critic_target", "actor"}),
    ({"bootstrap_probability": 0.5}, {"critic", "critic_target", "actor"}),
    ({"tau": 0.5}, {"critic_target"}),
    ({"learning_rate": 1e-2}, {"actor"}),
    ({"q_reduction": "max"}, {"actor"}),
    ({"q_reduction": "mean"}, {"actor"}),
    ({"variance_penalty": 10.0}, {"actor"}),
    ({"warmup_fraction": 0.9}, {"actor"}),
    ({"mmd_sigma": 0.1}, {"actor"}),
    ({"mmd_kernel": "gaussian"}, {"actor"}),
    ({"n_mmd_samples": 8}, {"actor"}),
    ({"mmd_estimator": "unbiased"}, {"actor"}),
    ({"mmd_estimator": "biased"}, {"actor"}),
    ({"alpha": 100.0}, {"actor", "alpha"}),
    ({"divergence": "kl"}, {"actor"}),
    # The threshold moves the multiplier only: here the divergence starts above the one and below the other.
    ({"mmd_threshold": 10.0}, {"alpha"}),
    ({"alpha_learning_rate": 1e-2}, {"alpha"}),
    ({"log_alpha_max": -1.0}, {"alpha"}),
    ({"batch_size": 8}, {"vae", "critic", "critic_target", "actor"}),
]


@pytest.mark.parametrize(("knob", "expected"), KNOBS, ids=lambda value: str(sorted(value)))
def test_each_knob_changes_what_it_says(knob, expected):
    # Plain gradient descent: Adam's first step is the gradient's sign, which hides small changes.
    policy_kwargs = {"optimizer_class": th.optim.SGD}
    default, other = tiny_bear(policy_kwargs=policy_kwargs), tiny_bear(policy_kwargs=policy_kwargs, **knob)
    assert changed(default, other) <= {"alpha"}  # same start
    assert changed(default.learn(1), other.learn(1)) - {"alpha"} == expected - {"alpha"}
    assert "alpha" not in expected or "alpha" in changed(default, other)


def test_number_of_critics_and_network_sizes():
    model = tiny_bear(policy_kwargs={"n_critics": 5, "vae_net_arch": [7], "vae_latent_dim": 3, "net_arch": [9]}).learn(1)
    assert len(model.critic.q_networks) == 5
    assert model.behavior_vae.encoder[-1].weight.shape == (6, 7)
    assert model.actor.mu.weight.shape == (2, 9)
    defaults = BEAR("MlpPolicy", "Pendulum-v1")
    assert [layer.out_features for layer in defaults.behavior_vae.encoder[::2]] == [256, 256, 4]
    assert defaults.behavior_vae.latent_dim == 2
    assert defaults.actor.net_arch == [256, 256]


def test_bootstrap_masks_are_drawn_once_per_transition_and_critic():
    model = tiny_bear(bootstrap_probability=0.7, policy_kwargs={"n_critics": 3}, dataset=make_arrays(4000)).learn(1)
    everything = model._masks_of(np.arange(4000))
    assert everything.shape == (3, 4000)
    assert everything.mean().item() == pytest.approx(0.7, abs=0.02)
    assert not th.equal(everything[0], everything[1])
    th.testing.assert_close(model._masks_of(np.array([5, 3])), everything[:, [5, 3]])


def test_a_warmup_that_many_short_calls_outlast_is_warned_of():
    model = tiny_bear(warmup_fraction=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(4)
        model.learn(4, reset_num_timesteps=False)
    with pytest.warns(UserWarning, match=r"warmup_steps=2 is .*several calls, set model\.warmup_steps"):
        model.learn(20, reset_num_timesteps=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = tiny_bear(warmup_fraction=0.5)
        own.warmup_steps = 1
        for model in (own, tiny_bear(warmup_fraction=0)):
            model.learn(4).learn(20, reset_num_timesteps=False)


def test_the_warmup_is_a_share_of_the_first_learn():
    model, in_warmup = tiny_bear(warmup_fraction=0.3), []

    def watch(*_) -> bool:
        in_warmup.append("actor_q_value" not in model._sums)
        model._sums.clear()
        return True

    model.learn(10, callback=watch)
    assert in_warmup == [True] * 3 + [False] * 7
    assert model.warmup_steps == 3
    # A second one does not warm up again, however long it is.
    model.learn(100, callback=watch)
    assert not any(in_warmup[10:])
    assert tiny_bear(warmup_fraction=1.0).learn(4).warmup_steps == 4


def test_a_run_that_was_cut_in_the_warmup_goes_on_with_it(tmp_path):
    """The share is that of the run as it was meant, not of what was left of it."""
    whole = tiny_bear(warmup_fraction=0.5).learn(10)
    cut = tiny_bear(warmup_fraction=0.5).learn(10, callback=lambda locals_, _: locals_["self"].num_timesteps < 3)
    cut.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", dataset=make_arrays()).learn(7, reset_num_timesteps=False)
    assert loaded.warmup_steps == 5
    assert changed(whole, loaded) == set()


def test_the_behaviour_learns_in_the_warmup_only():
    model, frozen = tiny_bear(warmup_fraction=0.3), []
    vae = []

    def watch(*_) -> bool:
        frozen.append(model.behavior_is_frozen)
        vae.append(weights(model)["vae"])
        return True

    model.learn(6, callback=watch)
    assert frozen == [False] + [True] * 5  # of the next step
    assert not th.equal(vae[0], vae[1]) and all(th.equal(vae[1], later) for later in vae[2:])
    # Where there is no warm-up, it learns throughout.
    model = tiny_bear(warmup_fraction=0).learn(3)
    assert not model.behavior_is_frozen


def test_the_published_preset_has_the_published_settings():
    model = BEAR("MlpPolicy", "Pendulum-v1", **PUBLISHED_PRESET)
    assert [layer.out_features for layer in model.behavior_vae.encoder[::2]] == [750, 750, 4]
    assert (model.n_steps, model.n_target_samples, model.mmd_threshold, model.behavior_steps) == (1, 10, 0.05, None)
    assert model.mmd_estimator == "biased"


def test_alpha_goes_to_its_clamp_when_the_threshold_lies_below_the_noise_floor():
    model = tiny_bear(mmd_threshold=-1.0, alpha_learning_rate=1.0, log_alpha_max=2.0).learn(20)
    assert model.log_alpha.item() == 2.0
    model = tiny_bear(mmd_threshold=10.0, alpha_learning_rate=1.0).learn(20)
    assert model.log_alpha.item() == -5.0


def test_a_threshold_out_of_reach_comes_to_meet_the_actor(monkeypatch, tmp_path):
    """Alpha leaves its bound, which it would not with a threshold that the user gave."""
    monkeypatch.setattr(losses, "auto_threshold", lambda *_: th.tensor(-1.0))
    monkeypatch.setattr(losses, "SLACK_RATE", 0.1)
    kwargs = {"alpha_learning_rate": 0.5, "log_alpha_max": 2.0, "warmup_fraction": 0.5}
    model = tiny_bear(**kwargs).learn(30, callback=lambda locals_, _: locals_["self"].num_timesteps < 15)
    model.learn(20, reset_num_timesteps=False)
    assert model.log_alpha.item() == 2.0 and 0.0 < model.mmd_slack.item() < 1.0
    model.learn(100, reset_num_timesteps=False)
    assert model.log_alpha.item() < 2.0 and model.mmd_slack.item() > 1.0
    logged(model)  # the steps so far
    line = logged(model.learn(1, reset_num_timesteps=False))
    assert line["train/mmd_threshold"] == pytest.approx(model.mmd_slack.item() - 1.0)
    assert line["train/mmd"] == pytest.approx(line["train/mmd_threshold"], rel=0.2)
    model.save(tmp_path / "model")
    assert BEAR.load(tmp_path / "model", device="cpu").mmd_slack.item() == model.mmd_slack.item()
    assert tiny_bear(mmd_threshold=-1.0, **kwargs).learn(60).log_alpha.item() == 2.0
    # In the warm-up, alpha may be at its bound without being driven there.
    model = tiny_bear(**kwargs | {"log_alpha_max": -4.5, "warmup_fraction": 1.0}).learn(20)
    assert model.log_alpha.item() == -4.5 and model.mmd_slack.item() == 0.0


def test_fixed_alpha_stays():
    model = tiny_bear(alpha=100.0).learn(10)
    assert model.log_alpha.exp().item() == pytest.approx(100.0)
    assert model.alpha_optimizer is None


def threshold_of(model: BEAR, logged: dict | None = None) -> float:
    batch = model.replay_buffer.sample(16)
    return model._actor_loss(batch, model._kind_of_step(), {} if logged is None else logged)[2].item()


@pytest.mark.parametrize("estimator", ["biased", "pooled", "unbiased"])
def test_auto_threshold_is_of_the_behaviors_samples(monkeypatch, estimator):
    model = tiny_bear(mmd_estimator=estimator).learn(2)
    assert model.mmd_threshold == "auto"
    behavior = th.randn(16, 4, 2)
    monkeypatch.setattr(model.behavior_vae, "raw_actions", lambda *_: behavior)
    expected = losses.auto_threshold(behavior, "laplacian", 20.0, estimator).item()
    logged = {}
    assert threshold_of(model, logged) == pytest.approx(expected)
    assert logged["mmd_threshold"].item() == pytest.approx(math.sqrt(expected) if estimator == "unbiased" else expected)


def test_arguments_that_were_changed_are_checked_before_learning():
    model = tiny_bear().learn(1)
    model.mmd_threshold = "Auto"
    with pytest.raises(ValueError, match="mmd_threshold='Auto'"):
        model.learn(1)
    assert model.num_timesteps == 1


def test_what_the_divergence_is_compared_with():
    assert threshold_of(tiny_bear(mmd_threshold=0.2).learn(1)) == pytest.approx(0.2)
    assert threshold_of(tiny_bear(divergence="kl").learn(1)) == -2.0
    assert threshold_of(tiny_bear(alpha=1.0).learn(1)) == pytest.approx(0.05)
    assert threshold_of(tiny_bear(mmd_estimator="unbiased", mmd_threshold=0.2).learn(1)) == pytest.approx(0.04)


def test_alpha_rises_after_the_warm_up_where_the_threshold_is_not_met_and_comes_down_where_it_is(monkeypatch):
    model = tiny_bear(alpha_learning_rate=0.1, warmup_fraction=1.0).learn(10)
    start = model.log_alpha.item()
    monkeypatch.setattr(losses, "auto_threshold", lambda *_: th.tensor(-9.9))
    high = model.learn(30, reset_num_timesteps=False).log_alpha.item()
    assert high > start + 1.0
    monkeypatch.setattr(losses, "auto_threshold", lambda *_: th.tensor(9.9))
    assert model.learn(30, reset_num_timesteps=False).log_alpha.item() < high - 0.5


@pytest.mark.parametrize(
    ("value", "threshold", "alpha"), [(-100.0, "auto", 25.0), (1e6, "auto", math.exp(10)), (100.0, 9.9, math.exp(-5))]
)
def test_alpha_is_a_quarter_of_the_values_in_the_warm_up_and_at_least_that_later(monkeypatch, value, threshold, alpha):
    model = tiny_bear(mmd_threshold=threshold, alpha_learning_rate=1.0, critic_learning_rate=0.0, warmup_fraction=1.0)
    with th.no_grad():
        for network in model.critic.q_networks:
            network[-1].weight.zero_()
            network[-1].bias.fill_(value)
    if threshold == "auto":
        model.log_alpha.data.fill_(8.0)
        assert model.learn(5).log_alpha.exp().item() == pytest.approx(alpha, rel=1e-4)
    monkeypatch.setattr(losses, "auto_threshold", lambda *_: th.tensor(9.9))
    model.learn(40, reset_num_timesteps=False)
    assert model.log_alpha.exp().item() == pytest.approx(alpha, rel=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"divergence": "wasserstein"}, ["divergence", "wasserstein", "mmd"]),
        ({"mmd_kernel": "rbf"}, ["mmd_kernel", "rbf"]),
        ({"q_reduction": "median"}, ["q_reduction", "median"]),
        ({"mmd_estimator": "exact"}, ["mmd_estimator", "exact"]),
        ({"mmd_sigma": 0.0}, ["mmd_sigma", "0"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"tau": 1.5}, ["tau", "1.5"]),
        ({"gamma": -0.1}, ["gamma", "-0.1"]),
        ({"alpha": "high"}, ["alpha", "high"]),
        ({"alpha": -1.0}, ["alpha", "-1"]),
        ({"alpha": float("nan")}, ["alpha", "nan"]),
        ({"mmd_threshold": "low"}, ["mmd_threshold", "low"]),
        ({"mmd_threshold": "auto", "alpha": 1.0}, ["mmd_threshold", "alpha", "give mmd_threshold a number"]),
        ({"mmd_threshold": "auto", "divergence": "kl"}, ["mmd_threshold", "divergence"]),
        ({"n_mmd_samples": 1}, ["mmd_threshold", "n_mmd_samples"]),
        ({"mmd_estimator": "unbiased", "divergence": "kl"}, ["mmd_estimator", "divergence"]),
        ({"mmd_estimator": "unbiased", "mmd_threshold": 0.1, "n_mmd_samples": 1}, ["mmd_estimator", "n_mmd_samples"]),
        ({"variance_penalty": 1.0, "policy_kwargs": {"n_critics": 1}}, ["variance_penalty", "n_critics"]),
        ({"bootstrap_probability": 0.0}, ["bootstrap_probability"]),
        ({"warmup_fraction": -1}, ["warmup_fraction", "-1"]),
        # PyYAML reads 1e4 and 3e-4 as strings.
        ({"warmup_fraction": "1e-1"}, ["warmup_fraction", "'1e-1'"]),
        ({"critic_learning_rate": "3e-4"}, ["critic_learning_rate", "'3e-4'"]),
        ({"alpha_learning_rate": None}, ["alpha_learning_rate", "None"]),
        ({"vae_learning_rate": -1e-3}, ["vae_learning_rate", "-0.001"]),
        ({"learning_rate": float("nan")}, ["learning_rate", "nan"]),
        ({"batch_size": 16.0}, ["batch_size", "16.0"]),
        ({"n_mmd_samples": None}, ["n_mmd_samples", "None"]),
        ({"n_steps": 0}, ["n_steps", "0"]),
        ({"n_steps": "2"}, ["n_steps", "'2'"]),
        ({"gamma": "0.9"}, ["gamma", "'0.9'"]),
        ({"mmd_sigma": float("nan")}, ["mmd_sigma", "nan"]),
        ({"mmd_sigma": "20"}, ["mmd_sigma", "'20'"]),
        ({"log_alpha_max": "10"}, ["log_alpha_max", "'10'"]),
        ({"vae_kl_weight": float("nan")}, ["vae_kl_weight", "nan"]),
        ({"alpha": None}, ["alpha", "None"]),
        ({"behavior_steps": "auto"}, ["behavior_steps", "'auto'"]),
        ({"policy_kwargs": {"n_action_samples": 5}}, ["policy_kwargs", "n_action_samples=5", "n_action_samples=100"]),
    ],
)
def test_wrong_arguments_are_named(kwargs, words):
    with pytest.raises(ValueError) as error:
        tiny_bear(**kwargs)
    for word in words:
        assert word in str(error.value)


def test_wrong_arguments_are_named_before_the_dataset_is_read(tmp_path):
    with pytest.raises(ValueError, match="divergence"):
        BEAR("MlpPolicy", "Pendulum-v1", str(tmp_path / "nothing.npz"), divergence="wasserstein")


def test_numbers_may_be_numpys():
    arguments = {
        "batch_size": np.int32(8),
        "tau": np.float32(0.1),
        "mmd_threshold": np.float32(0.1),
        "warmup_fraction": np.float32(0.5),
    }
    arguments |= {"alpha": np.float64(2.0), "critic_learning_rate": np.float64(1e-3), "n_steps": np.int64(2)}
    assert tiny_bear(**arguments).learn(11).num_timesteps == 11


def test_everything_the_issue_of_the_constraint_needs_is_logged(tmp_path):
    model = tiny_bear(verbose=0, tensorboard_log=str(tmp_path)).learn(20, log_interval=None)
    model.dump_logs()
    logged = {}
    model.learn(20, log_interval=None)
    model.logger.dump = lambda step: logged.update(model.logger.name_to_value)
    model.dump_logs()
    constraint = {"alpha", "alpha_loss", "least_alpha", "mmd", "mmd_floor", "mmd_threshold", "std"}
    q_values = {"q_value", "q_value_std", "target_q_value", "actor_q_value"}
    other_losses = {"actor_loss", "critic_loss", "reconstruction_loss", "kl_loss", "learning_rate"}
    for name in constraint | q_values | other_losses:
        assert np.isfinite(logged[f"train/{name}"]), name
    assert logged["time/fps"] > 0
    assert list(tmp_path.glob("BEAR_*/events*"))


# --- acting -----------------------------------------------------------------------------------------------------------


def test_acts_by_the_best_of_n_candidates_under_the_first_critic():
    model = tiny_bear(n_action_samples=20).learn(5)
    obs = th.as_tensor(make_arrays()["observations"][:6])
    with th.no_grad():
        candidates = th.tanh(model.policy.raw_actions(obs, model.policy.candidate_noise)[0])
        values = q_values(model.critic, obs, candidates)[0]
    best = candidates[th.arange(6), values.argmax(dim=1)].numpy()
    np.testing.assert_allclose(
        model.predict(obs.numpy(), deterministic=True)[0], model.policy.unscale_action(best), rtol=1e-5
    )
    assert not np.allclose(best, candidates[:, 0])
    # One candidate: no choice.
    single = tiny_bear(n_action_samples=1).learn(5)
    assert single.policy.candidate_noise.shape == (1, 1, 2)


def test_deterministic_means_deterministic():
    model = tiny_bear().learn(2)
    obs = make_arrays()["observations"][:5]
    first = model.predict(obs, deterministic=True)[0]
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], first)
    assert not np.array_equal(model.predict(obs)[0], model.predict(obs)[0])
    # The same state alone and in a batch gets the same action.
    np.testing.assert_allclose(model.predict(obs[3], deterministic=True)[0], first[3], rtol=1e-5)


def test_actions_are_in_environment_units():
    model = tiny_bear().learn(2)
    actions = model.predict(make_arrays()["observations"])[0]
    space = make_arrays()["action_space"]
    assert (actions >= space.low).all()
    assert (actions <= space.high).all()
    assert actions[:, 0].max() > 1


def test_behavior_vae_is_a_policy_that_imitates_the_data():
    """Data whose action is a function of the state: cloning finds it."""
    rng = np.random.default_rng(0)
    observations = rng.uniform(-1, 1, (500, 3)).astype(np.float32)
    actions = np.stack([0.5 + 2 * observations[:, 0], 0.5 + 0.4 * observations[:, 1]], axis=1)
    arrays = make_arrays(500) | {"observations": observations, "actions": actions}
    model = tiny_bear(arrays, vae_learning_rate=5e-3, batch_size=64, policy_kwargs={"vae_net_arch": [64]}).learn(800)
    predicted, _ = model.behavior_vae.predict(observations, deterministic=True)
    assert np.abs(predicted - actions).mean(axis=0) == pytest.approx([0, 0], abs=0.25)
    evaluate_policy(BEAR("MlpPolicy", "Pendulum-v1").behavior_vae, make_vec_env("Pendulum-v1"), n_eval_episodes=1)


def test_behavior_vae_is_saved_and_loaded_as_a_policy(tmp_path):
    policy_kwargs = {"vae_net_arch": [7], "vae_latent_dim": 3, "activation_fn": th.nn.Tanh}
    vae, observations = tiny_bear(policy_kwargs=policy_kwargs).learn(2).behavior_vae, make_arrays()["observations"]
    vae.save(tmp_path / "vae.pth")
    loaded = type(vae).load(tmp_path / "vae.pth", device="cpu")
    np.testing.assert_array_equal(
        loaded.predict(observations, deterministic=True)[0], vae.predict(observations, deterministic=True)[0]
    )


# --- saving, loading, seeds -------------------------------------------------------------------------------------------


def test_same_seed_same_weights_whatever_runs_in_between():
    first, second = tiny_bear().learn(6), tiny_bear()
    for _ in range(6):
        second.learn(1, reset_num_timesteps=False)
        second.predict(np.zeros((4, 3), np.float32))
        th.rand(3), np.random.rand()
    assert changed(first, second) == set()
    assert changed(first, tiny_bear(seed=1).learn(6)) == set(NETWORKS)
    first.set_random_seed(7)
    second.set_random_seed(7)
    assert changed(first.learn(2), second.learn(2)) == set()


@pytest.mark.parametrize(
    "kwargs", [{}, {"alpha": 3.0, "bootstrap_probability": 0.8}, {"mmd_threshold": 0.1, "alpha_learning_rate": 0.5}]
)
def test_going_on_after_loading_equals_never_having_stopped(tmp_path, kwargs):
    whole = tiny_bear(**kwargs).learn(10)
    part = tiny_bear(**kwargs).learn(10, callback=lambda locals_, _: locals_["self"].num_timesteps < 5)
    part.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", dataset=make_arrays())
    assert loaded.num_timesteps == 5
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded.num_timesteps == 10
    assert changed(whole, loaded) == set()


def test_a_seed_given_to_load_counts(tmp_path):
    tiny_bear(seed=0).learn(2).save(tmp_path / "model")
    same, one, two, again = (
        BEAR.load(tmp_path / "model", device="cpu", dataset=make_arrays(), seed=seed).learn(3) for seed in (0, 1, 2, 2)
    )
    networks = {"vae", "critic", "critic_target", "actor"}
    assert networks <= changed(same, one) & changed(one, two)
    assert changed(two, again) == set()


def test_loading_for_prediction_never_needs_the_dataset(arrays, tmp_path):
    path = tmp_path / "data.npz"
    save_dataset(OfflineDataset(**arrays), path)
    model = tiny_bear(str(path)).learn(3)
    model.save(tmp_path / "model.zip")
    obs = arrays["observations"][:4]
    # A path is saved with the model, and read again only to learn.
    loaded = BEAR.load(tmp_path / "model.zip", custom_objects={"learning_rate": 0.0, "lr_schedule": lambda _: 0.0})
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    assert loaded.replay_buffer is None
    assert loaded.learn(1, reset_num_timesteps=False).num_timesteps == 4
    path.unlink()
    again = BEAR.load(tmp_path / "model.zip")
    again.predict(obs)
    with pytest.raises(DatasetError, match=r"data\.npz"):
        again.learn(1)


def test_going_on_without_the_dataset_in_memory_says_what_to_do(tmp_path):
    tiny_bear().learn(2).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"no dataset.*load\(\).*set_dataset"):
        BEAR.load(tmp_path / "model").learn(1)


def test_saved_model_holds_no_data(tmp_path):
    tiny_bear(make_arrays(20_000)).learn(1).save(tmp_path / "model")
    assert (tmp_path / "model.zip").stat().st_size < 100_000


def test_a_failed_save_leaves_the_old_model(tmp_path, monkeypatch):
    model = tiny_bear().learn(1)
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    monkeypatch.setattr(model, "get_parameters", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_parameters_round_trip(tmp_path):
    model, other = tiny_bear().learn(3), tiny_bear(seed=5)
    other.set_parameters(model.get_parameters())
    assert changed(model, other) <= {"alpha"}
    assert set(model.get_parameters()) == {
        "policy", "actor.optimizer", "critic.optimizer", "behavior_vae.optimizer", "alpha_optimizer"
    }  # fmt: skip
    model.policy.save(tmp_path / "policy.pth")
    policy = type(model.policy).load(tmp_path / "policy.pth")
    obs = make_arrays()["observations"]
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])


def test_learning_rates_follow_their_schedules():
    model = tiny_bear(learning_rate=lambda progress: progress, critic_learning_rate=lambda progress: 2 * progress)
    model.learn(4)
    assert model.actor.optimizer.param_groups[0]["lr"] == pytest.approx(0.25)
    assert model.critic.optimizer.param_groups[0]["lr"] == pytest.approx(0.5)
    assert model.behavior_vae.optimizer.param_groups[0]["lr"] == pytest.approx(3e-4)


def test_replay_buffer_goes_to_sac_and_back(tmp_path):
    model = BEAR("MlpPolicy", "Pendulum-v1", "bundled:pendulum-mixed-v0", policy_kwargs=TINY)
    model.save_replay_buffer(tmp_path / "buffer")
    sac = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]})
    sac.load_replay_buffer(tmp_path / "buffer.pkl")
    sac.set_logger(configure(None, []))
    sac.train(1, 32)
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    original = load_dataset("bundled:pendulum-mixed-v0")
    for name in ARRAY_FIELDS:
        np.testing.assert_allclose(getattr(load_dataset(tmp_path / "buffer.pkl"), name), getattr(original, name), atol=1e-5)
    model.learn(1)


def test_vec_normalize_takes_the_datasets_statistics_and_freezes():
    env = VecNormalize(make_vec_env("Pendulum-v1"), gamma=0.9)
    dataset = load_dataset("bundled:pendulum-mixed-v0")
    model = BEAR("MlpPolicy", env, dataset, policy_kwargs=TINY, warmup_fraction=0, batch_size=512).learn(1)
    np.testing.assert_allclose(env.obs_rms.mean, dataset.observations.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(env.obs_rms.var, dataset.observations.var(axis=0), rtol=1e-3)
    assert not env.training
    batch = model.replay_buffer.sample(4096, env)
    np.testing.assert_allclose(batch.observations.mean(dim=0), 0, atol=0.1)
    np.testing.assert_allclose(batch.observations.std(dim=0), 1, atol=0.1)
    # Rewards are divided by the standard deviation of the running discounted return.
    returns, running = [], 0.0
    for reward, done in zip(dataset.rewards, dataset.terminations | dataset.truncations, strict=True):
        running = 0.9 * running + reward
        returns.append(running)
        running *= not done
    assert env.ret_rms.var == pytest.approx(np.var(returns), rel=1e-4)


def test_dataset_collected_from_an_environment_trains_in_it():
    env = make_vec_env("Pendulum-v1", n_envs=2, seed=0)
    dataset = collect_dataset(env, None, 400)
    model = BEAR("MlpPolicy", env, dataset, policy_kwargs=TINY, warmup_fraction=0).learn(2)
    mean, std = evaluate_policy(model, env, n_eval_episodes=2)
    assert np.isfinite([mean, std]).all()


def test_losses_are_called_with_the_knobs(monkeypatch):
    """The losses get the user's arguments."""
    seen = {}

    def spy(module, name):
        original = getattr(module, name)

        def call(*args, **kwargs):
            seen[name] = args
            return original(*args, **kwargs)

        monkeypatch.setattr(module, name, call)

    spy(losses, "mmd_divergence")
    spy(bear_module, "mixed_target_q_values")
    spy(losses, "reduce_q_values")
    tiny_bear(
        mmd_kernel="gaussian", mmd_sigma=3.0, n_mmd_samples=6, mmd_estimator="unbiased", n_target_samples=7, gamma=0.9,
        target_q_mixture=0.5, q_reduction="mean", variance_penalty=0.3, n_steps=1, policy_kwargs={"n_critics": 3},
    ).learn(1)  # fmt: skip
    x, y, *rest = seen["mmd_divergence"]
    assert (x.shape, y.shape, rest) == ((16, 6, 2), (16, 6, 2), ["gaussian", 3.0, "unbiased"])
    assert x.requires_grad
    assert not y.requires_grad
    _, _, next_q_values, discounts, mixture = seen["mixed_target_q_values"]
    assert (next_q_values.shape, discounts.unique().tolist(), mixture) == ((3, 16, 7), [pytest.approx(0.9)], 0.5)
    values, reduction, penalty = seen["reduce_q_values"]
    assert (values.shape, reduction, penalty) == ((3, 16), "mean", 0.3)


@pytest.mark.parametrize("estimator", ["pooled", "unbiased"])
def test_the_figures_of_the_log_by_hand(monkeypatch, estimator):
    model, arrays, line = (
        tiny_bear(mmd_estimator=estimator, mmd_threshold=0.2, n_steps=1, gamma=0.5).learn(2),
        make_arrays(),
        {},
    )
    with th.no_grad():
        for network in model.critic_target.q_networks:
            network[-1].weight.zero_()
            network[-1].bias.fill_(8.0)
    monkeypatch.setattr(model.behavior_vae, "raw_actions", lambda *_: th.zeros(40, 4, 2))
    batch, step = model.replay_buffer.get(np.arange(40)), model._kind_of_step()
    values = model._critic_loss(batch, line)[1].detach()
    # Of two numbers, the standard deviation is half of their difference.
    assert line["q_value_std"].item() == pytest.approx((values[0] - values[1]).abs().mean().item() / 2)
    targets = arrays["rewards"] + 0.5 * 8.0 * (1.0 - arrays["terminations"])
    assert line["target_q_value"].item() == pytest.approx(targets.mean(), rel=1e-5)
    loss, divergence, _ = model._actor_loss(batch, step, line)
    assert line["actor_loss"].item() == loss.item()
    assert line["std"].item() == pytest.approx(model.actor.get_action_dist_params(batch.observations)[1].exp().mean().item())
    root = math.copysign(math.sqrt(abs(divergence.item())), divergence.item())
    assert line["mmd"].item() == pytest.approx(root if estimator == "unbiased" else divergence.item())
    # The behaviour's samples are all equal.
    assert line["mmd_floor"].item() == pytest.approx(0.0 if estimator == "unbiased" else 1e-3)
    assert model._update(batch, step)["alpha"].item() == pytest.approx(model.log_alpha.exp().item())


def test_the_threshold_gives_way_by_a_thousandth_of_what_is_missing(monkeypatch):
    monkeypatch.setattr(losses, "auto_threshold", lambda *_: th.tensor(-1.0))
    model = tiny_bear(log_alpha_max=-1.0).learn(1)
    assert model.mmd_slack.item() == pytest.approx(1e-3 * (logged(model)["train/mmd"] + 1.0), rel=1e-4)


def test_bootstrap_masks_depend_on_seed_and_dataset():
    model, other = (tiny_bear(seed=seed, bootstrap_probability=0.5) for seed in (0, 1))
    assert not th.equal(model._masks_of(th.arange(40)), other._masks_of(th.arange(40)))
    model.set_dataset(make_arrays(60))
    assert model._masks_of(th.arange(60)).shape == (2, 60)


def test_without_a_seed_too_masks_are_the_same_after_loading(tmp_path):
    model = tiny_bear(seed=None, bootstrap_probability=0.5).learn(1)
    model.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", dataset=make_arrays(), device="cpu").learn(0, reset_num_timesteps=False)
    assert th.equal(loaded._masks_of(th.arange(40)), model._masks_of(th.arange(40)))


def test_what_is_drawn_for_each_row_is_not_saved(tmp_path):
    model = tiny_bear(bootstrap_probability=0.5, behavior_steps=1).learn(3)
    assert model._bootstrap_masks is not None and model._behavior_samples is not None
    model.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", device="cpu")
    assert loaded._bootstrap_masks is None and loaded._behavior_samples is None


def test_the_published_preset_has_the_published_rates_and_warm_up():
    names = ("learning_rate", "critic_learning_rate", "alpha_learning_rate", "warmup_fraction")
    assert [PUBLISHED_PRESET[name] for name in names] == [1e-4, 3e-4, 1e-3, 0.08]


def test_the_defaults():
    model = BEAR("MlpPolicy", None, make_arrays(), device="cpu")
    rates = (model.learning_rate, model.critic_learning_rate, model.vae_learning_rate, model.alpha_learning_rate)
    assert rates == (3e-4, 1e-3, 3e-4, 3e-3)
    assert (model.tau, model.gamma, model.vae_kl_weight, model.warmup_fraction) == (0.005, 0.99, 0.5, 0.2)
