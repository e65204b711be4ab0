"""Golden values, limits and equivalences of the losses that offline algorithms share."""

import math

import pytest
import torch as th
from torch.distributions import Normal, kl_divergence

from sb3_pg_extras.offline import losses


def test_vae_loss_by_hand():
    reconstruction, actions = th.tensor([[0.5, 0.0], [0.0, 0.0]]), th.tensor([[0.0, 0.0], [0.0, 1.0]])
    # KL(N(m, s) || N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s.
    mean, log_std = th.tensor([[1.0, 0.0]]), th.tensor([[0.0, math.log(2.0)]])
    expected_kl = (0.5 + (1.5 - math.log(2.0))) / 2
    reconstruction_loss, kl_loss = losses.vae_loss(reconstruction, actions, mean, log_std)
    assert reconstruction_loss.item() == pytest.approx((0.25 + 1.0) / 4)
    assert kl_loss.item() == pytest.approx(expected_kl)
    assert losses.vae_loss(actions, actions, th.zeros(3, 2), th.zeros(3, 2)) == (0.0, 0.0)


def test_vae_kl_equals_torch_distributions():
    mean, log_std = th.randn(7, 4), th.randn(7, 4)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).mean()
    assert th.allclose(losses.vae_loss(mean, mean, mean, log_std)[1], expected, atol=1e-5)


def test_target_by_hand():
    # Two critics, two states, two actions each. gamma 0.1: digits are readable.
    next_q_values = th.tensor([[[10.0, 40.0], [1.0, 2.0]], [[30.0, 20.0], [5.0, 2.0]]])
    rewards, terminations = th.tensor([[7.0], [7.0]]), th.tensor([[0.0], [1.0]])
    # State 0: action 0 has min 10, max 30, mixture 15; action 1 has min 20, max 40, mixture 25. State 1 is terminal.
    target = losses.mixed_target_q_values(rewards, terminations, next_q_values, 0.1, 0.75)
    assert target.tolist() == [[pytest.approx(9.5)], [7.0]]
    # The order matters: the best action under each critic first, then the mixture, would give .75 * 30 + .25 * 40 = 32.5.
    wrong_order = next_q_values[:, :1].amax(dim=2)
    assert 0.75 * wrong_order.min() + 0.25 * wrong_order.max() == 32.5


@pytest.mark.parametrize(("mixture", "expected"), [(1.0, 20.0), (0.0, 40.0), (0.75, 25.0)])
def test_target_mixture_goes_from_clipped_double_q_to_the_maximum(mixture, expected):
    next_q_values = th.tensor([[[10.0, 40.0]], [[30.0, 20.0]]])
    zero = th.zeros(1, 1)
    assert losses.mixed_target_q_values(zero, zero, next_q_values, 1.0, mixture).item() == pytest.approx(expected)


def test_target_refuses_shapes_that_would_broadcast_silently():
    with pytest.raises(AssertionError):
        losses.mixed_target_q_values(th.zeros(3), th.zeros(3), th.zeros(2, 3, 4), 0.99, 0.75)
    with pytest.raises(AssertionError):
        losses.ensemble_critic_loss(th.zeros(2, 3), th.zeros(3))


def test_critic_loss_by_hand_with_and_without_mask():
    current, target = th.tensor([[1.0, 2.0], [0.0, 0.0]]), th.tensor([[0.0], [4.0]])
    # Critic 0: (1 + 4) / 2; critic 1: (0 + 16) / 2.
    assert losses.ensemble_critic_loss(current, target).item() == pytest.approx(10.5)
    mask = th.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert losses.ensemble_critic_loss(current, target, mask).item() == pytest.approx(8.5)


def test_critic_loss_moves_the_critic_and_never_the_target():
    current = th.zeros(2, 3, requires_grad=True)
    target = th.ones(3, 1, requires_grad=True)
    losses.ensemble_critic_loss(current, target).backward()
    assert (current.grad < 0).all()  # descending raises the critics to the target
    assert target.grad is None
