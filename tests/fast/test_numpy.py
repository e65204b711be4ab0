"""NumPy's networks, actors and optimisers against PyTorch's."""

from copy import deepcopy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import nn

from sb3_pg_extras.fast import matmuls
from sb3_pg_extras.fast.numpy_actor import NumpyActor
from sb3_pg_extras.fast.numpy_net import Net
from sb3_pg_extras.fast.numpy_optimizers import NumpyOptimizer, NumpyOptimizers

OBSERVATIONS, DISCRETE, BOX = spaces.Box(-1, 1, (3,)), spaces.Discrete(4), spaces.Box(-1, 1, (2,))


def make_policy(
    action_space: spaces.Space, observation_space: spaces.Space = OBSERVATIONS, policy_class=ActorCriticPolicy, **kwargs
):
    return policy_class(observation_space, action_space, lambda _: 1e-2, **kwargs)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.7)])
def test_a_net_computes_outputs_and_gradients_as_torch_does(activation, layer_norm, one_by_one):
    th.manual_seed(0)
    norm = [nn.LayerNorm(5, elementwise_affine=False)] if layer_norm else []
    modules = nn.Sequential(nn.Linear(3, 5), *norm, activation, nn.Linear(5, 5), activation, nn.Linear(5, 2))
    x, gradient = th.randn(4, 3), th.randn(4, 2)
    rows = 4 if one_by_one else 1
    gradients = {p: np.zeros((rows, *p.shape), dtype=np.float32) for p in modules.parameters()}
    net = Net(list(modules), gradients)
    np.testing.assert_allclose(net.forward(x.numpy()), modules(x).detach(), atol=1e-6)
    net.backward(gradient.numpy().copy())
    for row in range(rows):
        states = slice(row, row + 1) if one_by_one else slice(None)
        expected = th.autograd.grad(modules(x[states]), list(modules.parameters()), gradient[states])
        for p, theirs in zip(modules.parameters(), expected, strict=True):
            np.testing.assert_allclose(gradients[p][row], theirs, atol=1e-6)


# --- actors -----------------------------------------------------------------------------------------------------------


def torch_actor(policy):
    return th.no_grad()(lambda obs: policy.get_distribution(th.as_tensor(obs)).get_actions().numpy())


@pytest.mark.parametrize("make_actor", [torch_actor, NumpyActor])
def test_actions_follow_the_policys_distribution(make_actor):
    th.manual_seed(0)
    obs = np.ones((20_000, 3), dtype=np.float32)
    discrete = make_policy(DISCRETE)
    with th.no_grad():
        discrete.action_net.bias.copy_(th.tensor([0.0, 1.0, -1.0, 0.5]))
        expected = discrete.get_distribution(th.as_tensor(obs[:1])).distribution.probs[0]
    frequencies = np.bincount(make_actor(discrete)(obs), minlength=4) / len(obs)
    np.testing.assert_allclose(frequencies, expected, atol=0.015)
    box = make_policy(BOX, log_std_init=-0.7)
    actions = make_actor(box)(obs)
    with th.no_grad():
        distribution = box.get_distribution(th.as_tensor(obs[:1])).distribution
    np.testing.assert_allclose(actions.mean(axis=0), distribution.mean[0], atol=0.015)
    np.testing.assert_allclose(actions.std(axis=0), distribution.stddev[0], atol=0.015)


@pytest.mark.parametrize("activation_fn", [nn.Tanh, nn.ReLU, nn.ELU])
@pytest.mark.parametrize("net_arch", [[], [16], {"pi": [8, 8], "vf": [4]}])
def test_an_actor_computes_what_the_policy_computes_and_follows_its_updates(activation_fn, net_arch):
    policy = make_policy(DISCRETE, net_arch=net_arch, activation_fn=activation_fn)
    assert NumpyActor.applies_to(policy)
    actor, obs = NumpyActor(policy), np.random.default_rng(0).normal(size=(7, 3))
    seen = []
    for _ in range(2):
        distribution = policy.get_distribution(th.as_tensor(obs, dtype=th.float32)).distribution
        th.manual_seed(0)
        actions = actor(obs)
        log_probs = np.log(actor.odds / actor.odds.sum(axis=1, keepdims=True))
        th.testing.assert_close(th.as_tensor(log_probs), distribution.logits.detach(), atol=1e-6, rtol=0)
        th.manual_seed(0)
        assert actions.tolist() == distribution.sample().tolist()
        seen.append(log_probs)
        distribution.logits[:, 0].sum().backward()
        policy.optimizer.step()
    assert np.abs(seen[1] - seen[0]).max() > 1e-3


@pytest.mark.parametrize("action_space", [DISCRETE, BOX])
def test_an_actors_gradient_is_that_of_log_probabilities_and_entropies(action_space):
    th.manual_seed(0)
    policy = make_policy(action_space, net_arch=[6])
    params = [p for name, p in policy.named_parameters() if "value" not in name]
    gradients = {p: np.zeros((1, *p.shape), dtype=np.float32) for p in params}
    actor, obs = NumpyActor(policy, gradients), th.randn(5, 3)
    actions = th.as_tensor(actor(obs.numpy()))
    weights, entropy_weights = th.randn(5), th.randn(5)
    actor.backward(weights[:, None].numpy(), entropy_weights[:, None].numpy())
    distribution = policy.get_distribution(obs)
    objective = (weights * distribution.log_prob(actions) + entropy_weights * distribution.entropy()).sum()
    for p, expected in zip(params, th.autograd.grad(objective, params), strict=True):
        np.testing.assert_allclose(gradients[p][0], expected, atol=2e-6)


class SaysSo(ActorCriticPolicy):
    acts_in_numpy = True


class SaysNothing(SaysSo):
    """What it inherits says nothing about what it computes."""


def test_other_policies_are_left_to_torch():
    head = make_policy(DISCRETE)
    head.action_net = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4))
    others = [
        make_policy(DISCRETE, activation_fn=nn.SiLU),
        make_policy(DISCRETE, spaces.Discrete(3)),
        make_policy(spaces.MultiBinary(2)),
        make_policy(BOX, use_sde=True),
        make_policy(DISCRETE, policy_class=SaysNothing),
        make_policy(DISCRETE).double(),
        head,
    ]
    assert not any(NumpyActor.applies_to(policy) for policy in others)
    assert NumpyActor.applies_to(make_policy(DISCRETE, policy_class=SaysSo))


# --- optimisers -------------------------------------------------------------------------------------------------------


def make_parameters() -> list[nn.Parameter]:
    th.manual_seed(0)
    return [nn.Parameter(th.randn(2, 3)), nn.Parameter(th.randn(4))]


OPTIMIZERS = [(th.optim.SGD, {}), (th.optim.RMSprop, {"eps": 1e-3}), (th.optim.Adam, {"eps": 1e-3, "betas": (0.8, 0.9)})]


@pytest.mark.parametrize(("optimizer_class", "kwargs"), OPTIMIZERS)
def test_optimizers_step_as_torchs_do_and_take_over_where_they_stopped(optimizer_class, kwargs):
    (ours, theirs), steps = (make_parameters(), make_parameters()), th.randn(9, 10, generator=th.Generator().manual_seed(1))
    mine, oracle = (optimizer_class(params, lr=0.1, **kwargs) for params in (ours, theirs))

    def step(params, optimizer, gradient):
        for p, part in zip(params, gradient.split([6, 4]), strict=True):
            p.grad = part.view_as(p).clone()
        optimizer.step()

    for gradient in steps[:3]:
        step(ours, mine, gradient)
        step(theirs, oracle, gradient)
    fast = NumpyOptimizers([mine], rows=1, gradients_are_scratch=False)
    for gradient in steps[3:6]:
        fast.step(gradient.numpy() / 2, 2.0, td_error=1.0, max_grad_norm=None)
        step(theirs, oracle, gradient)
    # PyTorch goes on with the state that NumPy wrote.
    for gradient in steps[6:]:
        step(ours, mine, gradient)
        step(theirs, oracle, gradient)
    for one, other in zip(ours, theirs, strict=True):
        th.testing.assert_close(one, other, atol=1e-6, rtol=0)
    th.testing.assert_close(mine.state_dict()["state"], oracle.state_dict()["state"], atol=1e-6, rtol=1e-5)


def test_the_gradient_is_clipped_for_each_optimizer_by_itself():
    params = make_parameters()
    before = deepcopy(params)
    fast = NumpyOptimizers([th.optim.SGD([p], lr=1.0) for p in params], rows=1, gradients_are_scratch=False)
    fast.step(np.array([3.0] * 6 + [1e-3] * 4, dtype=np.float32), 1.0, td_error=1.0, max_grad_norm=0.5)
    moved = [(new - old).norm().item() for new, old in zip(params, before, strict=True)]
    assert moved == pytest.approx([0.5, 2e-3], rel=1e-3)


def test_an_optimizer_that_was_loaded_or_replaced_is_noticed():
    (params, make) = make_parameters(), th.optim.Adam
    optimizer = make(params)
    fast = NumpyOptimizers([optimizer], rows=1, gradients_are_scratch=False)
    assert fast.stand_for([optimizer])
    assert not fast.stand_for([make(params)])
    optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
    assert not fast.stand_for([optimizer])


def test_variants_and_other_optimizers_are_left_to_torch():
    params = make_parameters()
    others = [
        th.optim.SGD(params, lr=1.0, momentum=0.9), th.optim.RMSprop(params, centered=True), th.optim.AdamW(params),
        th.optim.Adam(params, weight_decay=0.1), th.optim.Adam([{"params": params[:1]}, {"params": params[1:]}]),
    ]  # fmt: skip
    assert not any(map(NumpyOptimizer.applies_to, others))
    assert all(NumpyOptimizer.applies_to(optimizer_class(params, lr=0.1)) for optimizer_class, _ in OPTIMIZERS)


def test_large_logits_do_not_overflow():
    policy = make_policy(DISCRETE, net_arch=[])
    with th.no_grad():
        policy.action_net.bias.copy_(th.tensor([500.0, 501.0, -500.0, 0.0]))
    actor = NumpyActor(policy)
    actions = actor(np.zeros((1000, 3), np.float32))
    assert set(actions.tolist()) == {0, 1}
    assert np.isfinite(actor.odds).all()


class OwnExtractor(MlpExtractor):
    """May compute something else."""


class OwnFeatures(FlattenExtractor):
    """Likewise."""


def test_networks_of_other_classes_are_left_to_torch():
    policy = make_policy(DISCRETE)
    policy.mlp_extractor.__class__ = OwnExtractor
    assert not NumpyActor.applies_to(policy)
    for name in ("pi_features_extractor", "vf_features_extractor"):
        policy = make_policy(DISCRETE, share_features_extractor=False)
        assert NumpyActor.applies_to(policy)
        setattr(policy, name, OwnFeatures(policy.observation_space))
        assert not NumpyActor.applies_to(policy)


def test_every_variant_of_an_optimiser_is_left_to_torch():
    params = make_parameters()
    others = [th.optim.Adam(params, amsgrad=True), th.optim.SGD(params, lr=1.0, maximize=True)]
    assert not any(map(NumpyOptimizer.applies_to, others))


def test_a_gradient_of_0_is_not_divided_by():
    params = make_parameters()
    before = [p.clone() for p in params]
    fast = NumpyOptimizers([th.optim.SGD(params, lr=1.0)], rows=1, gradients_are_scratch=False)
    fast.step(np.zeros(10, np.float32), 1.0, td_error=0.0, max_grad_norm=0.5)
    assert all(map(th.equal, before, params))


def test_layers_of_128_are_multiplied_by_mkl():
    """Where oneDNN took 1.2 times as long."""
    assert 128 * 128 < matmuls.LARGE <= 256 * 256
