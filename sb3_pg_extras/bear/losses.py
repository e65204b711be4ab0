"""
BEAR's losses: pure functions of tensors, never of networks.

Letters in shapes: B states in the batch, n and m samples per state, A action dimensions, C critics.
"""

import torch as th
from torch.distributions import Normal, TanhTransform

# Inside square roots, so that their gradient is finite at 0 (the published code's value for MMD).
SQRT_EPSILON = 1e-6
# sqrt((1 - delta) / delta) for delta = 0.1, delta_conf in BEAR's algos.py.
VARIANCE_PENALTY_FACTOR = 3.0
# least_alpha, per unit of value.
LEAST_ALPHA = 0.25
# How much of slack_distance is added per step.
SLACK_RATE = 1e-3


def pairwise_kernel(x: th.Tensor, y: th.Tensor, kernel: str, sigma: float) -> th.Tensor:
    """
    Kernel values of all pairs of samples: ``exp(-|x - y|_1 / (2 sigma))`` ("laplacian") or
    ``exp(-|x - y|_2^2 / (2 sigma))`` ("gaussian").

    All published BEAR code divides by ``2 sigma``, not ``2 sigma^2``: ``mmd_loss_laplacian`` and ``mmd_loss_gaussian``
    in BEAR's ``algos.py`` (Kumar et al. 2019).

    :param x: Samples, shape (B, n, A).
    :param y: Samples, shape (B, m, A).
    :param kernel: "laplacian" or "gaussian".
    :param sigma: Bandwidth, above 0.
    :return: shape (B, n, m).
    :raises ValueError: for another kernel.
    """
    assert x.ndim == y.ndim == 3 and x.shape[0] == y.shape[0] and x.shape[2] == y.shape[2], (x.shape, y.shape)
    difference = x.unsqueeze(2) - y.unsqueeze(1)
    if kernel == "laplacian":
        distance = difference.abs().sum(dim=3)
    elif kernel == "gaussian":
        distance = difference.square().sum(dim=3)
    else:
        raise ValueError(f"kernel must be 'laplacian' or 'gaussian', not {kernel!r}")
    return th.exp(-distance / (2.0 * sigma))


def mmd_squared(x: th.Tensor, y: th.Tensor, kernel: str, sigma: float, estimator: str = "biased") -> th.Tensor:
    """
    Squared maximum mean discrepancy between two sets of samples, per state
    (Gretton et al. 2012, "A Kernel Two-Sample Test", equations 3 and 5; BEAR, section 5).

    "biased" is ``mean_ij k(x_i, x_j) - 2 mean_ij k(x_i, y_j) + mean_ij k(y_i, y_j)`` over all pairs, ``i = j`` included:
    never negative, but ``(1/n + 1/m)(1 - E k)`` on average when x and y have the same distribution. "unbiased" (the
    U-statistic) leaves ``i = j`` out of the first and the last mean: 0 on average then, and negative about half the time.

    :param x: Samples, shape (B, n, A).
    :param y: Samples, shape (B, m, A).
    :param kernel: See :func:`pairwise_kernel`.
    :param sigma: See :func:`pairwise_kernel`.
    :param estimator: "biased" or "unbiased".
    :return: shape (B,).
    :raises ValueError: for another estimator, or for "unbiased" with fewer than two samples.
    """
    k_xx, k_xy, k_yy = (pairwise_kernel(a, b, kernel, sigma) for a, b in ((x, x), (x, y), (y, y)))
    return _mean_of_pairs(k_xx, estimator) - 2.0 * k_xy.mean(dim=(1, 2)) + _mean_of_pairs(k_yy, estimator)


def _mean_of_pairs(k: th.Tensor, estimator: str) -> th.Tensor:
    """Mean kernel value within one set of samples, shape (B, n, n) -> (B,)."""
    if estimator == "biased":
        return k.mean(dim=(1, 2))
    if estimator != "unbiased":
        raise ValueError(f"estimator must be 'biased' or 'unbiased', not {estimator!r}")
    n = k.shape[1]
    if n < 2:
        raise ValueError(f"a mean over pairs of different samples needs at least 2 samples per state, got {n}")
    # k(x, x) = 1 on the diagonal, for both kernels.
    return (k.sum(dim=(1, 2)) - n) / (n * (n - 1))


def mmd_divergence(x: th.Tensor, y: th.Tensor, kernel: str, sigma: float, estimator: str) -> th.Tensor:
    """
    The quantity that BEAR's constraint bounds.

    "biased", as published, is ``mean_B sqrt(MMD^2 + 1e-6)``, compared with the threshold epsilon. With the Laplacian kernel
    MMD^2 is about proportional to the distance from the data, so that its root makes a step further away cheaper the further
    the policy is. "pooled" (ours) takes the root last, ``sqrt(mean_B MMD^2 + 1e-6)``: the step costs the same everywhere.
    "unbiased" is ``mean_B MMD^2``, compared with ``epsilon^2``: a root would bias it, and has no value where the estimate is
    negative.

    :param x: Samples of the policy, shape (B, n, A); gradients flow.
    :param y: Samples of the behaviour, shape (B, m, A).
    :param kernel: See :func:`pairwise_kernel`.
    :param sigma: See :func:`pairwise_kernel`.
    :param estimator: "biased", "pooled" or "unbiased"; MMD^2 is that of :func:`mmd_squared`, biased for "pooled".
    :return: scalar.
    """
    squared = mmd_squared(x, y, kernel, sigma, "biased" if estimator == "pooled" else estimator)
    if estimator == "unbiased":
        return squared.mean()
    return (squared.mean() + SQRT_EPSILON).sqrt() if estimator == "pooled" else (squared + SQRT_EPSILON).sqrt().mean()


def bound_of(epsilon: float, estimator: str) -> float:
    """
    :param epsilon: The threshold as the paper states it.
    :param estimator: See :func:`mmd_divergence`.
    :return: What :func:`mmd_divergence` is compared with, in its unit: ``epsilon``, or its square for "unbiased".
    """
    return epsilon**2 if estimator == "unbiased" else epsilon


def in_unit_of_epsilon(divergence: th.Tensor, estimator: str) -> th.Tensor:
    """
    :param divergence: In the unit of :func:`mmd_divergence`.
    :param estimator: See :func:`mmd_divergence`.
    :return: The inverse of :func:`bound_of`: the unbiased MMD^2, which may be negative, as a signed square root.
    """
    return divergence.sign() * divergence.abs().sqrt() if estimator == "unbiased" else divergence


def mmd_noise_floor(samples: th.Tensor, kernel: str, sigma: float, estimator: str = "biased") -> th.Tensor:
    """
    What the estimator reads when policy and behaviour are the same distribution: ``sqrt((2/n)(1 - E k) + 1e-6)`` for
    "pooled", a little less for "biased", whose roots come first, 0 for "unbiased". A narrower policy reads somewhat less,
    but a threshold far below cannot be met, whatever the policy does.

    :param samples: Samples of the behaviour, shape (B, n, A), n at least 2.
    :param kernel: See :func:`pairwise_kernel`.
    :param sigma: See :func:`pairwise_kernel`.
    :param estimator: See :func:`mmd_divergence`.
    :return: scalar.
    """
    if estimator == "unbiased":
        return samples.new_zeros(())
    return (2.0 / samples.shape[1] * _spread(samples, kernel, sigma) + SQRT_EPSILON).sqrt()


def auto_threshold(samples: th.Tensor, kernel: str, sigma: float, estimator: str) -> th.Tensor:
    """
    How far from the behaviour one of its own actions is, on average: the divergence of a policy that takes one action at
    each state, drawn once from the behaviour. So far a policy may go, and so choose among the behaviour's actions; how much
    those vary, and with it the threshold, depends on the data (ours, not the paper's).

    In expectation, MMD^2 is then ``1 - 2 E k + E k = 1 - E k``, k the kernel of two of the behaviour's actions; the biased
    estimate from n of them is ``1 + 1/n`` times as large. For "biased" the threshold is a little wider than that divergence,
    whose roots come first.

    :param samples: Samples of the behaviour, shape (B, n, A), n at least 2.
    :param kernel: See :func:`pairwise_kernel`.
    :param sigma: See :func:`pairwise_kernel`.
    :param estimator: See :func:`mmd_divergence`.
    :return: A threshold in the unit of :func:`mmd_divergence`, scalar.
    """
    spread = _spread(samples, kernel, sigma)
    return spread if estimator == "unbiased" else ((1.0 + 1.0 / samples.shape[1]) * spread + SQRT_EPSILON).sqrt()


@th.no_grad()
def slack_distance(log_alpha: th.Tensor, log_alpha_max: float, divergence: th.Tensor, threshold: th.Tensor) -> th.Tensor:
    """
    What is missing while alpha is at its upper bound and the divergence above the threshold: "auto" adds a thousandth of it
    to its threshold for the next steps. The actor, another network than the VAE, has then not come as near, and may
    never; the threshold comes to meet it (ours, not the paper's).

    :param log_alpha: shape (1,).
    :param log_alpha_max: Upper bound of ``log_alpha``.
    :param divergence: scalar; no gradient flows to it.
    :param threshold: In the same unit, scalar.
    :return: shape (1,), at least 0.
    """
    return ((divergence - threshold) * (log_alpha >= log_alpha_max)).clamp(min=0.0)


def _spread(samples: th.Tensor, kernel: str, sigma: float) -> th.Tensor:
    """``1 - E k`` over pairs of different samples of the same state, a scalar."""
    return 1.0 - _mean_of_pairs(pairwise_kernel(samples, samples, kernel, sigma), "unbiased").mean()


def kl_divergence(behavior_actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor) -> th.Tensor:
    """
    KL(behaviour || policy) up to the behaviour's entropy: ``-E log pi(a)`` over the behaviour's samples
    (``kl_loss`` in BEAR's ``algos.py``), for ``a = tanh(u)`` of a Gaussian u (SAC, Haarnoja et al. 2018, appendix C).

    :param behavior_actions: ``u``, samples of the behaviour, shape (B, n, A).
    :param mean: Mean of the policy's Gaussian, shape (B, A); gradients flow.
    :param log_std: Its log standard deviation, shape (B, A); gradients flow.
    :return: scalar.
    """
    assert behavior_actions.ndim == 3 and mean.shape == log_std.shape == behavior_actions[:, 0].shape
    gaussian = Normal(mean.unsqueeze(1), log_std.exp().unsqueeze(1), validate_args=False)
    log_slope = TanhTransform().log_abs_det_jacobian(behavior_actions, None)
    return -(gaussian.log_prob(behavior_actions) - log_slope).sum(dim=2).mean()


def reduce_q_values(q_values: th.Tensor, reduction: str, variance_penalty: float = 0.0) -> th.Tensor:
    """
    One value per state from an ensemble of critics, minus ``variance_penalty * sqrt((1 - d) / d) * std_j Q_j``
    with ``d = 0.1`` (``--use_ensemble_variance`` in BEAR's ``algos.py``).

    :param q_values: ``Q_j(s, a)``, shape (C, B).
    :param reduction: "min", "max" or "mean" over critics.
    :param variance_penalty: lambda, 0 for none.
    :return: shape (B,).
    :raises ValueError: for another reduction.
    """
    assert q_values.ndim == 2
    if reduction not in ("min", "max", "mean"):
        raise ValueError(f"reduction must be 'min', 'max' or 'mean', not {reduction!r}")
    value = q_values.mean(dim=0) if reduction == "mean" else getattr(q_values, f"a{reduction}")(dim=0)
    if variance_penalty == 0.0:
        return value
    # The population standard deviation, with an epsilon: critics that agree must not give a NaN gradient.
    std = (q_values.var(dim=0, unbiased=False) + SQRT_EPSILON).sqrt()
    return value - variance_penalty * VARIANCE_PENALTY_FACTOR * std


def least_alpha(q_values: th.Tensor) -> th.Tensor:
    """
    A quarter of the mean ``|Q|``: beside :func:`auto_threshold`, alpha in the warm-up and its lower bound later (ours, not
    the paper's). With a lower alpha the policy follows the critics out of narrow data, and the MMD of a few samples hardly
    shows it. The constraint's weight relative to the critics' is then independent of the rewards' scale, as in TD3+BC
    (Fujimoto & Gu 2021, equation 5).

    :param q_values: ``Q_j(s, a)``, any shape; no gradient flows to them.
    :return: scalar.
    """
    return LEAST_ALPHA * q_values.detach().abs().mean()


def support_penalty(alpha: th.Tensor, divergence: th.Tensor, threshold: float | th.Tensor) -> th.Tensor:
    """
    The policy's side of the constraint ``divergence <= threshold``: ``alpha (divergence - threshold)`` with alpha held
    fixed (BEAR, equation 1, by dual gradient descent as in Algorithm 1).

    :param alpha: The multiplier, above 0; no gradient flows to it.
    :param divergence: scalar; gradients flow.
    :param threshold: What it is compared with, in the same unit.
    :return: scalar.
    """
    return alpha.detach() * (divergence - threshold)


def alpha_loss(log_alpha: th.Tensor, divergence: th.Tensor, threshold: float | th.Tensor) -> th.Tensor:
    """
    The multiplier's side of the same constraint: descending it lets ``log_alpha`` ascend
    ``exp(log_alpha) (divergence - threshold)``, so alpha grows while the constraint is violated.

    :param log_alpha: shape (1,); gradients flow.
    :param divergence: scalar; no gradient flows to it.
    :param threshold: What it is compared with, in the same unit.
    :return: scalar.
    """
    return -(log_alpha.exp() * (divergence.detach() - threshold)).sum()
