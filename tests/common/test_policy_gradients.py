"""Returns, advantages, losses and TD errors: values that can be checked by hand."""

import itertools

import numpy as np
import pytest
import torch as th

from sb3_pg_extras.common import policy_gradients
from sb3_pg_extras.common.returns import discounted_returns


def test_returns_by_hand():
    # gamma 0.1: the digits are the rewards. Episodes of 3, 1 and 2 steps.
    returns = discounted_returns(np.array([1, 2, 3, 4, 5, 6]), np.array([3, 4, 6]), 0.1)
    np.testing.assert_allclose(returns, [1.23, 2.3, 3, 4, 5.6, 6])


@pytest.mark.parametrize("gamma", [0.0, 0.9, 0.99, 1.0])
def test_returns_equal_the_recursion(gamma):
    rng = np.random.default_rng(0)
    lengths = [1, 2, 3, 4, 5, 64, 65, 1000]
    rewards = rng.normal(size=sum(lengths))
    expected = []
    for episode in np.split(rewards, np.cumsum(lengths)[:-1]):
        running = 0.0
        backwards = []
        for reward in episode[::-1]:
            running = reward + gamma * running
            backwards.append(running)
        expected += backwards[::-1]
    np.testing.assert_allclose(discounted_returns(rewards, np.cumsum(lengths), gamma), expected, atol=1e-9)


def test_advantages_by_hand():
    returns, timesteps = th.tensor([1.23, 2.3, 3.0, 4.0]), th.tensor([0, 1, 2, 0])

    def advantages(**kwargs):
        return policy_gradients.advantages(returns, timesteps, 0.1, **kwargs).tolist()

    assert advantages() == pytest.approx([1.23, 2.3, 3.0, 4.0])
    assert advantages(discount_weighting=True) == pytest.approx([1.23, 0.23, 0.03, 4.0])
    assert advantages(baseline=th.tensor(1.0)) == pytest.approx([0.23, 1.3, 2.0, 3.0])
    assert advantages(baseline=th.tensor([1.0, 0.3, 1.0, 1.0]), discount_weighting=True) == pytest.approx(
        [0.23, 0.2, 0.02, 3.0]
    )
    normalized = th.tensor(advantages(normalize=True))
    assert normalized.mean().item() == pytest.approx(0, abs=1e-6)
    assert normalized.std(unbiased=False).item() == pytest.approx(1)


@pytest.mark.parametrize("returns", [[5.0], [2.0, 2.0, 2.0]])
def test_batches_of_one_step_or_of_equal_returns_have_no_nan(returns):
    advantages = policy_gradients.advantages(th.tensor(returns), th.arange(len(returns)), 0.99, normalize=True)
    assert advantages.tolist() == [0.0] * len(returns)


def test_policy_gradient_loss_raises_what_is_good_and_leaves_the_advantages_alone():
    log_prob = th.zeros(2, requires_grad=True)
    advantages = th.tensor([1.0, -3.0], requires_grad=True)
    policy_gradients.policy_gradient_loss(log_prob, advantages).backward()
    assert log_prob.grad.tolist() == [-0.5, 1.5]  # descending raises the first and lowers the second
    assert advantages.grad is None
    value = th.zeros(2, requires_grad=True)
    assert not policy_gradients.advantages(advantages, th.zeros(2), 1.0, baseline=value).requires_grad
    with pytest.raises(AssertionError):
        policy_gradients.policy_gradient_loss(th.zeros(3), th.zeros(3, 1))


def test_td_errors_by_hand():
    # gamma 0.1: the digits are reward and next value.
    rewards, terminations = th.tensor([1.0, 1.0]), th.tensor([0.0, 1.0])
    values, next_values = th.tensor([0.5, 0.5], requires_grad=True), th.tensor([2.0, 2.0], requires_grad=True)
    errors = policy_gradients.td_errors(rewards, terminations, values, next_values, 0.1)
    assert errors.tolist() == pytest.approx([1.2 - 0.5, 1.0 - 0.5])
    errors.square().sum().backward()
    assert values.grad.tolist() == pytest.approx([-1.4, -1.0])  # descending raises V(s) towards its target
    assert next_values.grad is None
    with pytest.raises(AssertionError):
        policy_gradients.td_errors(rewards, terminations, values, next_values.unsqueeze(1), 0.1)


@pytest.mark.parametrize(("credit", "discount_weighting", "unbiased"), [
    ("reward_to_go", True, True), ("reward_to_go", False, False), ("episode", False, True), ("episode", True, False),
])  # fmt: skip
def test_what_the_gradient_of_the_discounted_return_needs(credit, discount_weighting, unbiased):
    """Two steps, each with an action of 0 or 1 by a fair coin's logit, which is its reward: all four episodes."""
    gamma, timesteps = 0.5, th.arange(2)
    gradient = th.zeros(2)
    for actions in itertools.product([0.0, 1.0], repeat=2):
        rewards = th.tensor(actions)
        whole = rewards[0] + gamma * rewards[1]
        returns = th.stack([whole, rewards[1] if credit == "reward_to_go" else whole])
        psi = policy_gradients.advantages(returns, timesteps, gamma, discount_weighting=discount_weighting)
        gradient += (rewards - 0.5) * psi / 4
    exact = 0.25 * gamma**timesteps
    assert th.allclose(gradient, exact) == unbiased
