"""Stream AC(lambda): ObGD and eligibility traces by hand, the networks of StreamPolicy."""

from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from single_step_models import Anything, make, vector
from stable_baselines3.common.torch_layers import CombinedExtractor
from torch import nn

from sb3_pg_extras import STREAM_PRESET
from sb3_pg_extras.single_step_a2c import StreamPolicy
from sb3_pg_extras.single_step_a2c.optimizers import EligibilityTraces, ObGD


def test_obgd_by_hand():
    # |e|_1 = 6 over both parameters of the group.
    for td_error, step in ((2.0, 1 / (2 * 6 * 3)), (0.5, 1 / (6 * 3)), (-2.0, 1 / (2 * 6 * 3))):
        a, b = nn.Parameter(th.zeros(2)), nn.Parameter(th.zeros(1))
        optimizer = ObGD([a, b], lr=1.0, kappa=3.0)
        # Descending minus td_error * e ascends the trace.
        a.grad, b.grad = -td_error * th.tensor([1.0, -2.0]), -td_error * th.tensor([3.0])
        optimizer.step(td_error=td_error)
        assert [*a.tolist(), *b.tolist()] == pytest.approx([step * td_error * e for e in (1, -2, 3)])
    # Small steps are not made larger.
    a = nn.Parameter(th.zeros(1))
    a.grad = th.tensor([-0.1])
    ObGD([a], lr=0.5, kappa=3.0).step(td_error=1.0)
    assert a.item() == pytest.approx(0.05)


def test_obgd_is_an_ordinary_optimizer():
    w = nn.Parameter(th.tensor([3.0, -2.0]))
    optimizer = ObGD([{"params": [w], "kappa": 1.0}], lr=1.0)
    schedule = th.optim.lr_scheduler.StepLR(optimizer, step_size=50, gamma=0.1)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    values = []
    for _ in range(200):
        values.append(optimizer.step(closure).item())
        schedule.step()
    assert values[0] == 13 and values[-1] < 0.01
    assert ObGD([w]).state_dict()["param_groups"][0]["kappa"] == 2.0
    ObGD([nn.Parameter(th.ones(1))]).step()  # no gradient, nothing to do
    for kwargs in ({"lr": -1.0}, {"kappa": 0.0}):
        with pytest.raises(ValueError, match=next(iter(kwargs))):
            ObGD([w], **kwargs)


def test_obgd_does_not_overshoot_where_sgd_with_the_same_step_does():
    """One linear TD update must not change the sign of the TD error it comes from (features within +-1, kappa 2)."""
    rng = np.random.default_rng(0)
    overshot = {"ObGD": 0, "SGD": 0}
    for _ in range(200):
        x, next_x = th.tensor(rng.uniform(-1, 1, (2, 8)), dtype=th.float32)
        reward = float(rng.normal() * 10 ** rng.uniform(-2, 2))
        trace = x + 0.9 * th.tensor(rng.uniform(-1, 1, 8), dtype=th.float32)
        start = th.tensor(rng.normal(size=8), dtype=th.float32)
        for name, make_optimizer in (("ObGD", ObGD), ("SGD", th.optim.SGD)):
            w = nn.Parameter(start.clone())
            optimizer = make_optimizer([w], lr=1.0)

            def td_error(w=w, x=x, next_x=next_x, reward=reward) -> float:
                return (reward + 0.99 * next_x @ w - x @ w).item()

            before = td_error()
            w.grad = -before * trace
            optimizer.step(**({"td_error": before} if name == "ObGD" else {}))
            overshot[name] += before * td_error() < -1e-6
    assert overshot["ObGD"] == 0
    assert overshot["SGD"] > 20


def test_traces_ignore_parameters_without_gradient_and_are_saved():
    used, unused = nn.Parameter(th.ones(2)), nn.Parameter(th.ones(1))
    traces = EligibilityTraces([used, unused], 1)
    traces.accumulate((used * th.tensor([3.0, 4.0])).sum().unsqueeze(0), 0.5)
    traces.write_gradients(th.tensor([2.0]))
    assert used.grad.tolist() == [-6, -8] and unused.grad.tolist() == [0]
    other = EligibilityTraces([used, unused], 1)
    other.load_state_dict(traces.state_dict())
    assert other.traces.tolist() == [[3, 4, 0]]


def test_parameters_that_are_frozen_stay_as_they_are_and_the_others_learn_on():
    model = make(trace_decay=0.8).learn(10)
    net = model.policy.mlp_extractor.policy_net.requires_grad_(False)
    before, everything = deepcopy(net.state_dict()), vector(model)
    model.learn(10, reset_num_timesteps=False)
    th.testing.assert_close(net.state_dict(), before, atol=0, rtol=0)
    assert (vector(model) - everything).abs().max() > 1e-4


def test_stream_policy_is_that_of_stream_ac():
    model = make("StreamPolicy", "Pendulum-v1", **STREAM_PRESET)
    policy = model.policy
    assert [type(m).__name__ for m in policy.mlp_extractor.policy_net] == ["Linear", "LayerNorm", "LeakyReLU"] * 2
    assert len(list(policy.mlp_extractor.value_net)) == 6
    linears = [m for m in policy.modules() if isinstance(m, nn.Linear)]
    assert len(linears) == 7  # two and two hidden layers, mean, standard deviation, value
    for linear in linears:
        zeros = min(int(np.ceil(0.9 * linear.in_features)), linear.in_features - 1)
        assert ((linear.weight == 0).sum(dim=1) == zeros).all()
        assert linear.weight.abs().max() <= linear.in_features**-0.5 and (linear.bias == 0).all()
    # In 128 inputs another place for each unit.
    assert len({tuple(row.nonzero().flatten().tolist()) for row in linears[1].weight}) == 128
    # Only linear layers have parameters, and each has one optimiser.
    groups = [optimizer.param_groups[0] for optimizer in model.optimizers]
    assert sum(len(group["params"]) for group in groups) == 14 == len(list(policy.parameters()))
    assert [(group["lr"], group["kappa"]) for group in groups] == [(1.0, 3.0), (1.0, 2.0)]
    assert model.traces is not None


def test_stream_policys_standard_deviation_depends_on_the_state():
    policy = make("StreamPolicy", "Pendulum-v1").policy
    with th.no_grad():
        policy.std_net.bias.fill_(-1.0)
        distribution = policy.get_distribution(obs := th.randn(3, 3)).distribution
        latent = policy.mlp_extractor.forward_actor(obs)
        expected = th.log1p(th.exp(policy.std_net(latent))) + 1e-5
    th.testing.assert_close(distribution.stddev, expected)
    assert len(set(distribution.stddev.flatten().tolist())) == 3
    assert not hasattr(policy, "log_std")


def test_stream_policys_switches(tmp_path):
    off = {"sparsity": None, "layer_norm": False, "state_dependent_std": False, "net_arch": [8], "activation_fn": nn.Tanh}
    optimizer = {"optimizer_class": th.optim.Adam}
    stream = make("StreamPolicy", "Pendulum-v1", policy_kwargs=off | optimizer)
    stock = make("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [8]})
    assert th.equal(vector(stream), vector(stock))
    policy = make("StreamPolicy", "Pendulum-v1", policy_kwargs={"sparsity": 0.5, "net_arch": [16]}).policy
    policy.save(tmp_path / "policy.zip")
    loaded = StreamPolicy.load(tmp_path / "policy.zip")
    obs = np.ones(3, dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], policy.predict(obs, deterministic=True)[0])
    assert loaded.sparsity == 0.5
    with pytest.raises(ValueError, match=r"sparsity=1\.5"):
        make("StreamPolicy", policy_kwargs={"sparsity": 1.5})
    with pytest.raises(ValueError, match="state_dependent_std=True and use_sde=True"):
        make("StreamPolicy", "Pendulum-v1", use_sde=True)


class Own(CombinedExtractor):
    """An extractor of the user's."""


def test_stream_policy_takes_the_users_extractor_for_dicts():
    env = Anything(spaces.Dict({"a": spaces.Box(-1, 1, (2,))}), spaces.Discrete(2))
    assert type(make("StreamPolicy", env).policy.pi_features_extractor) is CombinedExtractor
    assert (
        type(make("StreamPolicy", env, policy_kwargs={"features_extractor_class": Own}).policy.pi_features_extractor) is Own
    )


def test_a_learning_rate_of_0_is_one():
    """A schedule may end, or begin, there."""
    a = nn.Parameter(th.ones(1))
    a.grad = th.ones(1)
    ObGD([a], lr=0.0).step()
    assert a.item() == 1.0
