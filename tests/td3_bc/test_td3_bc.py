"""TD3+BC: its loss by hand, its limits (SB3's TD3, behaviour cloning), and that it learns and goes on."""

from copy import deepcopy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from conftest import make_arrays
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.td3.policies import TD3Policy

from sb3_pg_extras import TD3BC, load_dataset
from sb3_pg_extras.td3_bc.td3_bc import actor_loss

SMALL = {"net_arch": [32]}
NETWORKS = ("actor", "critic", "actor_target", "critic_target")


def tiny(dataset=None, **kwargs) -> TD3BC:
    kwargs = {"policy_kwargs": SMALL, "seed": 0, "batch_size": 32, "device": "cpu"} | kwargs
    return TD3BC("MlpPolicy", None, make_arrays() if dataset is None else dataset, **kwargs)


def weights(model, name: str) -> th.Tensor:
    return th.nn.utils.parameters_to_vector(getattr(model.policy, name).parameters()).detach().clone()


def bandit(n: int = 600) -> dict:
    """One step per episode; the reward is 1 - |a - 0.5|, and the data's actions are -0.6 or, half as often, 0.6."""
    rng = np.random.default_rng(0)
    actions = (rng.choice([-0.6, -0.6, 0.6], (n, 1)) + 0.05 * rng.normal(size=(n, 1))).astype(np.float32)
    observations = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
    return {
        "observations": observations,
        "next_observations": observations,
        "actions": actions,
        "rewards": 1 - np.abs(actions[:, 0] - 0.5),
        "terminations": np.ones(n, bool),
        "truncations": np.zeros(n, bool),
        "action_space": spaces.Box(-1, 1, (1,)),
    }


# The loss.


def test_actor_loss_by_hand():
    q_values, actions, data_actions = th.tensor([[3.0], [-1.0]]), th.tensor([[0.5], [0.0]]), th.tensor([[0.0], [1.0]])
    # lambda = 2 / mean(3, 1) = 1; -1 * mean(3, -1) + (0.25 + 1) / 2.
    assert actor_loss(q_values, actions, data_actions, alpha=2.0).item() == pytest.approx(-1 + 0.625)
    assert actor_loss(q_values, actions, data_actions, alpha=0.0).item() == pytest.approx(0.625)
    # Values in another unit change nothing.
    assert actor_loss(1000 * q_values, actions, data_actions, alpha=2.0).item() == pytest.approx(-0.375)
    assert actor_loss(0 * q_values, actions, data_actions, alpha=2.0).item() == pytest.approx(0.625)


def test_no_gradient_flows_through_lambda_and_the_values_are_raised():
    q_values = th.tensor([[3.0], [-1.0]], requires_grad=True)
    actor_loss(q_values, th.zeros(2, 1), th.zeros(2, 1), alpha=2.0).backward()
    # d/dQ_i of -lambda mean Q is -lambda / B; through lambda it would be 0 for values of one sign.
    assert q_values.grad.tolist() == [[-0.5], [-0.5]]


def test_shapes_that_would_broadcast_silently_are_refused():
    with pytest.raises(AssertionError):
        actor_loss(th.zeros(3), th.zeros(3, 2), th.zeros(3, 2), 2.5)


# The limits.


class Env(gym.Env):
    """Has the spaces of conftest's arrays."""

    observation_space, action_space = make_arrays()["observation_space"], make_arrays()["action_space"]


class OneBatch:
    """A replay buffer of one batch."""

    def __init__(self, batch):
        self.batch = batch

    def sample(self, *_, **__):
        return self.batch


@pytest.mark.parametrize("n_steps", [1, 3])
def test_without_cloning_it_is_sb3s_td3(n_steps):
    """With a huge alpha and no noise both take the same two steps of critics, and one of actor and targets."""
    model = tiny(alpha=1e7, target_policy_noise=0.0, n_steps=n_steps)
    td3 = model.to_td3(Env(), keep_dataset=False, n_steps=n_steps)
    model.set_logger(configure(None, []))
    td3.set_logger(model.logger)
    batch = model.replay_buffer.get(np.arange(32))
    td3.replay_buffer = OneBatch(batch)
    model.replay_buffer.sample = lambda *_: batch
    before = weights(model, "actor")
    for step in range(2):
        model.train(1, 32)
        td3.train(1, 32)
        assert th.equal(weights(model, "actor"), before) == (step == 0)
        for name in NETWORKS:
            th.testing.assert_close(weights(model, name), weights(td3, name), rtol=0, atol=2e-6)


def test_with_alpha_0_it_clones():
    model = tiny(alpha=0.0, policy_delay=1)
    batch = model.replay_buffer.get(np.arange(32))
    loss = th.nn.functional.mse_loss(model.policy.actor(batch.observations), batch.actions)
    assert model._update(batch, True)["actor_loss"].item() == pytest.approx(loss.item())
    data = make_arrays(500)
    data["actions"] = np.stack([0.5 + 2 * np.tanh(data["observations"][:, 0]), 0.5 + 0 * data["rewards"]], axis=1)
    model = tiny(data, alpha=0.0, learning_rate=1e-2, policy_delay=1).learn(300)
    predicted = model.predict(data["observations"], deterministic=True)[0]
    assert np.abs(predicted - data["actions"]).mean(axis=0) == pytest.approx([0, 0], abs=0.15)


@pytest.mark.parametrize(("alpha", "lowest", "highest"), [(0.0, -0.4, 0.0), (10.0, 0.4, 1.0)])
def test_it_prefers_the_better_of_the_datas_actions(alpha, lowest, highest):
    """Cloning takes the mean action, -0.2; the values speak for 0.6."""
    model = tiny(bandit(), alpha=alpha, learning_rate=3e-3, tau=0.05, batch_size=64).learn(200)
    action = model.predict(bandit()["observations"][:50], deterministic=True)[0].mean()
    assert lowest < action < highest


def test_target_noise_is_clipped_and_counts():
    model = tiny(target_policy_noise=5.0, target_noise_clip=0.5)
    seen = []
    critic = model.policy.critic_target.q_networks[0]
    critic.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 3:]))
    batch = model.replay_buffer.get(np.arange(32))
    model._update(batch, False)
    with th.no_grad():
        difference = (seen[0] - model.policy.actor_target(batch.next_observations)).abs()
    assert difference.max() == pytest.approx(0.5, abs=1e-5)
    assert difference.min() < 0.5 and (seen[0].abs() <= 1).all()


# The model.


@pytest.mark.parametrize("steps", [5, 6])
def test_going_on_after_loading_equals_never_having_stopped(tmp_path, steps):
    """Also where the model was saved between two steps of its actor."""
    whole, part = tiny().learn(11), tiny().learn(steps)
    part.save(tmp_path / "model")
    loaded = TD3BC.load(tmp_path / "model", dataset=make_arrays(), device="cpu")
    loaded.learn(11 - steps, reset_num_timesteps=False)
    assert loaded.num_timesteps == 11
    for name in NETWORKS:
        assert th.equal(weights(whole, name), weights(loaded, name))
    observations = make_arrays()["observations"]
    np.testing.assert_array_equal(
        whole.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


def test_images_dicts_and_the_bundled_dataset():
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 36, 3), dtype=np.uint8)
    rest = {name: value for name, value in make_arrays().items() if name != "observation_space"}
    data = rest | {"observations": image, "next_observations": image}
    model = TD3BC("CnnPolicy", None, data, policy_kwargs=SMALL, batch_size=4).learn(2)
    assert model.observation_space.shape == (3, 36, 36) and not model.normalize_observations
    both = {"image": image, "speed": np.zeros((40, 2), np.float32)}
    model = TD3BC("MultiInputPolicy", None, rest | {"observations": both, "next_observations": both}, batch_size=4).learn(2)
    assert model.normalize_observations
    model = TD3BC("MlpPolicy", "Pendulum-v1").learn(2)
    assert model.replay_buffer.size() == 30_000
    assert [layer.out_features for layer in model.policy.actor.mu if hasattr(layer, "out_features")] == [256, 256, 1]
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=1)[0])


def test_to_td3_is_a_stock_td3_with_networks_and_dataset(tmp_path):
    model = TD3BC("MlpPolicy", "Pendulum-v1", policy_kwargs=SMALL, gamma=0.9, policy_delay=3, seed=0, device="cpu").learn(9)
    td3 = model.to_td3(buffer_size=500, target_noise_clip=0.3)
    assert type(td3) is TD3 and type(td3.policy) is TD3Policy
    assert (td3.gamma, td3.policy_delay, td3.target_noise_clip, td3.learning_starts) == (0.9, 3, 0.3, 0)
    assert (td3.replay_buffer.pos, td3.buffer_size) == (30_000, 30_500)
    for name in NETWORKS:
        assert th.equal(weights(model, name), weights(td3, name))
    observations = load_dataset("bundled:pendulum-mixed-v0").observations[:30]
    acted = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(td3.predict(observations, deterministic=True)[0], acted)
    td3.learn(5)
    td3.save(tmp_path / "td3")
    np.testing.assert_array_equal(
        TD3.load(tmp_path / "td3", device="cpu").predict(observations)[0], td3.predict(observations)[0]
    )
    with pytest.raises(ValueError, match=r"policy_kwargs net_arch=\[8\]"):
        model.to_td3(policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="env=None"):
        tiny().to_td3()


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"policy_delay": 0}, "policy_delay=0"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"target_noise_clip": "0.5"}, "target_noise_clip='0.5'"),
        ({"tau": 2}, "tau=2"),
    ],
)
def test_wrong_arguments_are_named(kwargs, word):
    with pytest.raises(ValueError, match=word):
        tiny(**kwargs)


def test_the_defaults_are_the_papers_settings():
    model = TD3BC("MlpPolicy", None, make_arrays(), device="cpu")
    assert (model.alpha, model.policy_delay, model.target_policy_noise, model.target_noise_clip) == (2.5, 2, 0.2, 0.5)
    assert (model.learning_rate, model.batch_size, model.tau, model.gamma) == (3e-4, 256, 0.005, 0.99)


def test_values_however_small_are_normalised():
    q_values, actions, data_actions = th.tensor([[3.0], [-1.0]]), th.tensor([[0.5], [0.0]]), th.tensor([[0.0], [1.0]])
    assert actor_loss(1e-5 * q_values, actions, data_actions, alpha=2.0).item() == pytest.approx(-0.375)


def test_target_actions_with_their_noise_are_actions():
    model = tiny(target_policy_noise=5.0)
    seen = []
    model.policy.critic_target.q_networks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][:, 0, 3:]))
    with th.no_grad():
        model.policy.actor_target.mu[-2].bias.fill_(3.0)  # close to the bound
    model._update(model.replay_buffer.get(np.arange(32)), False)
    assert seen[0].max() == 1.0


def test_figures_of_the_log():
    model = tiny()
    batch, actor = model.replay_buffer.get(np.arange(32)), deepcopy(model.policy.actor)
    assert set(model._update(batch, False)) == {"critic_loss"}
    figures = model._update(batch, True)
    with th.no_grad():
        value = model.policy.critic.q1_forward(batch.observations, actor(batch.observations)).mean()
    assert figures["actor_q_value"].item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize("name", ["alpha", "target_policy_noise", "target_noise_clip"])
def test_no_weight_and_no_noise_is_negative(name):
    with pytest.raises(ValueError, match=f"{name}=-0.1"):
        tiny(**{name: -0.1})
