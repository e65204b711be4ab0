"""Behaviour cloning: the second user of OfflineAlgorithm."""

import numpy as np
import pytest
import torch as th
from conftest import make_arrays
from stable_baselines3.common.evaluation import evaluate_policy
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from sb3_pg_extras import BC

SMALL = {"net_arch": [32]}


def tiny_bc(dataset=None, **kwargs) -> BC:
    kwargs = {"policy_kwargs": SMALL, "seed": 0, "batch_size": 32, "device": "cpu"} | kwargs
    return BC("MlpPolicy", None, make_arrays() if dataset is None else dataset, **kwargs)


def imitable(n: int = 500) -> dict:
    """Data whose action is a function of the state, in an action space of [-2, 3] x [0, 1]."""
    observations = np.random.default_rng(0).uniform(-1, 1, (n, 3)).astype(np.float32)
    actions = np.stack([0.5 + 2 * observations[:, 0], 0.5 + 0.4 * observations[:, 1]], axis=1)
    return make_arrays(n) | {"observations": observations, "actions": actions}


def test_a_standard_deviation_that_was_not_learned_is_not_drawn_from():
    obs = make_arrays()["observations"]
    for actor_type, acts_by_the_mean in (("deterministic", True), ("gaussian", False)):
        model = tiny_bc(actor_type=actor_type)
        same = np.array_equal(model.predict(obs)[0], model.predict(obs, deterministic=True)[0])
        assert same == acts_by_the_mean


@pytest.mark.parametrize("actor_type", ["deterministic", "gaussian"])
def test_clones_a_function_of_the_state(actor_type):
    data = imitable()
    model = tiny_bc(data, actor_type=actor_type, learning_rate=1e-2).learn(600)
    predicted = model.predict(data["observations"], deterministic=True)[0]
    assert np.abs(predicted - data["actions"]).mean(axis=0) == pytest.approx([0, 0], abs=0.15)


def test_the_gaussian_learns_the_spread():
    """Actions that the state says nothing about: mean and standard deviation before the tanh are the data's."""
    rng = np.random.default_rng(0)
    raw = rng.normal([0.3, -0.2], [0.5, 0.2], (4000, 2))
    low, high = make_arrays()["action_space"].low, make_arrays()["action_space"].high
    data = make_arrays(4000) | {"actions": low + (np.tanh(raw) + 1) / 2 * (high - low)}
    model = tiny_bc(data, actor_type="gaussian", learning_rate=3e-3, batch_size=256).learn(800)
    with th.no_grad():
        mean, log_std, _ = model.policy.actor.get_action_dist_params(th.zeros(1, 3))
    np.testing.assert_allclose(mean[0], raw.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(log_std.exp()[0], raw.std(axis=0), rtol=0.2)


def logged_loss(model: BC, rows: np.ndarray) -> float:
    return model._update(model.replay_buffer.get(rows), None)["loss"].item()


def test_losses_by_hand():
    rows = np.arange(5)
    model = tiny_bc()
    obs = th.as_tensor(make_arrays()["observations"][:5])
    wanted = model.replay_buffer.get(rows).actions
    with th.no_grad():
        mean, log_std, _ = model.policy.actor.get_action_dist_params(obs)
    mse = ((th.tanh(mean) - wanted) ** 2).mean().item()
    assert logged_loss(model, rows) == pytest.approx(mse, rel=1e-5)
    squashed = TransformedDistribution(Independent(Normal(mean, log_std.exp()), 1), TanhTransform())
    negative_log_likelihood = -squashed.log_prob(wanted).mean().item()
    assert logged_loss(tiny_bc(actor_type="gaussian"), rows) == pytest.approx(negative_log_likelihood, rel=1e-4)


@pytest.mark.parametrize("actor_type", ["deterministic", "gaussian"])
def test_each_step_lowers_the_loss_of_its_batch(actor_type):
    """It fails when the sign of either loss is wrong."""
    model, rows = tiny_bc(actor_type=actor_type, learning_rate=1e-3), np.arange(40)
    first = logged_loss(model, rows)
    for _ in range(20):
        last = logged_loss(model, rows)
    assert last < first - 1e-3


@pytest.mark.parametrize("actor_type", ["deterministic", "gaussian"])
def test_going_on_after_loading_equals_never_having_stopped(tmp_path, actor_type):
    whole, part = tiny_bc(actor_type=actor_type).learn(10), tiny_bc(actor_type=actor_type).learn(5)
    part.save(tmp_path / "model")
    loaded = BC.load(tmp_path / "model", dataset=make_arrays(), device="cpu").learn(5, reset_num_timesteps=False)
    weights = [th.nn.utils.parameters_to_vector(model.policy.actor.parameters()) for model in (whole, loaded)]
    assert loaded.num_timesteps == 10
    assert th.equal(*weights)
    observations = make_arrays()["observations"]
    np.testing.assert_array_equal(
        whole.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


def test_images_dicts_and_the_bundled_dataset():
    image = np.random.default_rng(0).integers(0, 256, (40, 36, 36, 3), dtype=np.uint8)
    rest = {name: value for name, value in make_arrays().items() if name != "observation_space"}
    data = rest | {"observations": image, "next_observations": image}
    assert BC("CnnPolicy", None, data, policy_kwargs=SMALL, batch_size=4).learn(1).observation_space.shape == (3, 36, 36)
    both = {"image": image, "speed": np.zeros((40, 2), np.float32)}
    BC("MultiInputPolicy", None, rest | {"observations": both, "next_observations": both}, batch_size=4).learn(1)
    model = BC("MlpPolicy", "Pendulum-v1", policy_kwargs=SMALL).learn(2)
    assert model.replay_buffer.size() == 30_000
    assert np.isfinite(evaluate_policy(model, model.get_env(), n_eval_episodes=1)[0])


@pytest.mark.parametrize(
    ("kwargs", "word"),
    [
        ({"actor_type": "tanh"}, "actor_type='tanh'"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"policy_kwargs": {"use_sde": True}}, "use_sde=True"),
        ({"normalize_observations": "never"}, "normalize_observations='never'"),
        ({"learning_rate": "1e-3"}, "learning_rate='1e-3'"),
    ],
)
def test_wrong_arguments_are_named(kwargs, word):
    with pytest.raises(ValueError, match=word):
        tiny_bc(**kwargs)


def test_the_log_has_the_squared_error_of_the_mean_whatever_is_learned():
    model = tiny_bc(actor_type="gaussian")
    batch = model.replay_buffer.get(np.arange(40))
    with th.no_grad():
        error = (th.tanh(model.actor.get_action_dist_params(batch.observations)[0]) - batch.actions).square().mean()
    assert model._update(batch, None)["mean_squared_error"].item() == pytest.approx(error.item(), rel=1e-5)


def test_the_default_learning_rate():
    assert tiny_bc().learning_rate == 3e-4
