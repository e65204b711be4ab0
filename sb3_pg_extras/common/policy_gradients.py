"""Policy gradients and temporal differences: pure functions of tensors, never of networks."""

import torch as th


def advantages(
    returns: th.Tensor,
    timesteps: th.Tensor,
    gamma: float,
    baseline: th.Tensor | None = None,
    discount_weighting: bool = False,
    normalize: bool = False,
) -> th.Tensor:
    """
    The weight psi of each action in REINFORCE (Williams 1992; Sutton & Barto 2018, sections 13.3 and 13.4):
    ``psi_t = gamma^t (return_t - baseline_t)``, then standardised over the batch if asked for.

    :param returns: Returns-to-go or returns of the whole episode, shape (N,).
    :param timesteps: Position t of each action in its episode, shape (N,).
    :param gamma: Discount factor.
    :param baseline: Subtracted from the returns, shape (N,) or scalar; no gradient flows to it.
    :param discount_weighting: Whether to multiply by ``gamma^t``, which almost no implementation does.
    :param normalize: Whether to subtract the batch's mean and divide by its (population) standard deviation; a batch of
        equal advantages, or of one, becomes 0.
    :return: psi, shape (N,), without gradient.
    """
    assert returns.ndim == 1 and timesteps.shape == returns.shape
    assert baseline is None or baseline.shape in (returns.shape, ())
    psi = returns if baseline is None else returns - baseline
    if discount_weighting:
        psi = psi * gamma**timesteps
    if normalize:
        psi = (psi - psi.mean()) / (psi.std(unbiased=False) + 1e-8)
    return psi.detach()


def policy_gradient_loss(log_prob: th.Tensor, advantages: th.Tensor) -> th.Tensor:
    """
    ``-mean(log pi(a_t|s_t) psi_t)``: descending it ascends the mean of ``psi_t grad log pi(a_t|s_t)``.

    :param log_prob: shape (N,); gradients flow.
    :param advantages: psi, shape (N,); no gradient flows to it.
    :return: scalar.
    """
    assert log_prob.ndim == 1 and log_prob.shape == advantages.shape
    return -(log_prob * advantages.detach()).mean()


def td_errors(
    rewards: th.Tensor, terminations: th.Tensor, values: th.Tensor, next_values: th.Tensor, gamma: float
) -> th.Tensor:
    """
    The one-step TD error ``r + gamma (1 - terminated) V(s') - V(s)`` (Sutton & Barto 2018, section 13.5); V(s') is fixed.

    :param rewards: shape (B,).
    :param terminations: 1 where s' is terminal, shape (B,); 0 at a time limit, where V(s') counts.
    :param values: ``V(s)``, shape (B,); gradients flow.
    :param next_values: ``V(s')``, shape (B,); no gradient flows to it.
    :param gamma: Discount factor.
    :return: shape (B,).
    """
    assert values.ndim == 1 and rewards.shape == terminations.shape == values.shape == next_values.shape
    return rewards + gamma * (1.0 - terminations) * next_values.detach() - values
