"""BEAR's losses: values worked out by hand, limits, and gradients that a wrong sign or detach would change."""

import math

import pytest
import torch as th
from torch.distributions import Normal, kl_divergence

from sb3_pg_extras.bear import losses

ONE_STATE_X = th.tensor([[[0.0], [1.0]]])  # (B=1, n=2, A=1)
ONE_STATE_Y = th.tensor([[[1.0], [3.0]]])


def same_gaussians(n_states: int, n: int = 4, seed: int = 0) -> tuple[th.Tensor, th.Tensor]:
    """Two sets of n samples of N(0, .3^2 I_3) for each of many states (the noise-floor example of docs/bear.md)."""
    generator = th.Generator().manual_seed(seed)
    x, y = (0.3 * th.randn(n_states, n, 3, generator=generator) for _ in range(2))
    return x, y


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        # sigma = 0.5, so 2 sigma = 1: k = exp(-|x - y|) and exp(-|x - y|^2). Rows x = 0, 1; columns y = 1, 3.
        ("laplacian", [[math.exp(-1), math.exp(-3)], [1.0, math.exp(-2)]]),
        ("gaussian", [[math.exp(-1), math.exp(-9)], [1.0, math.exp(-4)]]),
    ],
)
def test_kernels_by_hand(kernel, expected):
    assert th.allclose(losses.pairwise_kernel(ONE_STATE_X, ONE_STATE_Y, kernel, 0.5), th.tensor([expected]))


@pytest.mark.parametrize(("kernel", "distance"), [("laplacian", 3.0 + 4.0), ("gaussian", 9.0 + 16.0)])
def test_kernels_divide_by_two_sigma_and_use_l1_or_squared_l2(kernel, distance):
    x, y = th.zeros(1, 1, 2), th.tensor([[[3.0, -4.0]]])
    # sigma = 5: 2 sigma = 10, whereas 2 sigma^2 would be 50.
    assert losses.pairwise_kernel(x, y, kernel, 5.0).item() == pytest.approx(math.exp(-distance / 10.0))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="laplacian"):
        losses.pairwise_kernel(ONE_STATE_X, ONE_STATE_Y, "rbf", 1.0)
    with pytest.raises(ValueError, match="unbiased"):
        losses.mmd_squared(ONE_STATE_X, ONE_STATE_Y, "laplacian", 1.0, "exact")
    with pytest.raises(ValueError, match="mean"):
        losses.reduce_q_values(th.zeros(2, 3), "median")


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_mmd_squared_by_hand(kernel, estimator):
    def k(a: float, b: float) -> float:
        return math.exp(-abs(a - b)) if kernel == "laplacian" else math.exp(-((a - b) ** 2))

    # x = {0, 1}, y = {1, 3}, 2 sigma = 1.
    cross = (k(0, 1) + k(0, 3) + k(1, 1) + k(1, 3)) / 4
    if estimator == "biased":
        expected = (1 + 1 + 2 * k(0, 1)) / 4 - 2 * cross + (1 + 1 + 2 * k(1, 3)) / 4
    else:
        expected = k(0, 1) - 2 * cross + k(1, 3)
    value = losses.mmd_squared(ONE_STATE_X, ONE_STATE_Y, kernel, 0.5, estimator)
    assert value.shape == (1,)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_mmd_of_a_set_with_itself():
    x, _ = same_gaussians(5)
    assert th.allclose(losses.mmd_squared(x, x, "laplacian", 20.0), th.zeros(5), atol=1e-6)
    # The U-statistic counts the zero distances between the two copies, but not those within them.
    assert (losses.mmd_squared(x, x, "laplacian", 20.0, "unbiased") < 0).all()


def test_mmd_keeps_states_apart_and_does_not_mind_the_order_of_samples():
    x, y = same_gaussians(6)
    together = losses.mmd_squared(x, y, "gaussian", 20.0)
    alone = th.cat([losses.mmd_squared(x[i : i + 1], y[i : i + 1], "gaussian", 20.0) for i in range(6)])
    assert th.allclose(together, alone)
    assert th.allclose(together, losses.mmd_squared(x.flip(1), y[:, [2, 0, 3, 1]], "gaussian", 20.0), atol=1e-6)
    assert th.allclose(together, losses.mmd_squared(y, x, "gaussian", 20.0), atol=1e-6)


def test_biased_estimator_shows_the_noise_floor_and_the_unbiased_one_does_not():
    x, y = same_gaussians(40_000)
    biased = losses.mmd_divergence(x, y, "laplacian", 20.0, "biased")
    assert biased.item() == pytest.approx(0.109, abs=0.002)
    # E[MMD^2] = (2/n)(1 - E k); the root of the mean lies a little above the mean of the root.
    floor = losses.mmd_noise_floor(y, "laplacian", 20.0)
    mean_squared = losses.mmd_squared(x, y, "laplacian", 20.0).mean()
    assert floor.item() == pytest.approx(math.sqrt(mean_squared.item() + 1e-6), abs=0.001)
    assert biased < floor < biased + 0.01

    squared = losses.mmd_squared(x, y, "laplacian", 20.0, "unbiased")
    standard_error = squared.std().item() / math.sqrt(len(squared))
    assert abs(squared.mean().item()) < 4 * standard_error
    # The test has power: the biased estimate is hundreds of standard errors away from 0.
    assert mean_squared.item() > 100 * standard_error


def test_unbiased_estimator_converges_to_the_true_mmd():
    # Gaussian kernel, 2 sigma = s; a ~ N(m, v), b ~ N(m', v), w = s + 4 v: E k(a, b) = sqrt(s / w) exp(-(m - m')^2 / w).
    s, shift, v = 2.0, 1.5, 0.49
    within = math.sqrt(s / (s + 4 * v))
    expected = 2 * within - 2 * within * math.exp(-(shift**2) / (s + 4 * v))
    generator = th.Generator().manual_seed(1)
    x, y = (0.7 * th.randn(60_000, 4, 1, generator=generator) for _ in range(2))
    squared = losses.mmd_squared(x + shift, y, "gaussian", s / 2, "unbiased")
    assert squared.mean().item() == pytest.approx(expected, abs=4 * squared.std().item() / math.sqrt(len(squared)))


def test_mmd_divergence_by_hand():
    # No distance at the first state; x = {0, 1}, y = {1, 3} at the second.
    x, y = th.cat([ONE_STATE_X, ONE_STATE_X]), th.cat([ONE_STATE_X, ONE_STATE_Y])
    squared = losses.mmd_squared(ONE_STATE_X, ONE_STATE_Y, "laplacian", 0.5).item()
    e = math.exp
    # mean k(x, x') - 2 mean k(x, y) + mean k(y, y'); in the first state y = x.
    unbiased = (e(-1) - (1 + e(-1)) + e(-1) + e(-1) - (e(-1) + e(-3) + 1 + e(-2)) / 2 + e(-2)) / 2
    for estimator, expected in (
        ("biased", (1e-3 + math.sqrt(squared + 1e-6)) / 2),
        ("pooled", math.sqrt(squared / 2 + 1e-6)),
        ("unbiased", unbiased),
    ):
        assert losses.mmd_divergence(x, y, "laplacian", 0.5, estimator).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("kernel", "estimator", "ratio"),
    [
        ("laplacian", "biased", 1 / 3),
        ("laplacian", "pooled", 1.0),
        ("laplacian", "unbiased", 1.0),
        ("gaussian", "biased", 1.0),
        ("gaussian", "pooled", 9.0),
        ("gaussian", "unbiased", 9.0),
    ],
)
def test_how_hard_each_estimator_pulls_at_a_state_nine_times_as_far_from_the_data(kernel, estimator, ratio):
    policy, behavior = th.tensor([0.1, 0.9]).reshape(2, 1, 1).repeat(1, 2, 1).requires_grad_(), th.zeros(2, 2, 1)
    losses.mmd_divergence(policy, behavior, kernel, 20.0, estimator).backward()
    near, far = policy.grad.sum(dim=(1, 2))
    assert near > 0
    assert (far / near).item() == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize(("center", "std", "expected"), [(0.8, 0.05, 0.177), (1.2, 0.05, 0.264), (1.5, 0.05, 0.327)])
def test_mmd_of_narrow_policies_against_uniform_behavior(center, std, expected):
    """Behaviour U[-1, 1], Gaussian kernel with sigma 20, n = 4."""
    generator = th.Generator().manual_seed(0)
    behavior = 2 * th.rand(40_000, 4, 1, generator=generator) - 1
    policy = center + std * th.randn(40_000, 4, 1, generator=generator)
    assert losses.mmd_divergence(policy, behavior, "gaussian", 20.0, "biased").item() == pytest.approx(expected, abs=0.003)


def test_mmd_gradient_pulls_the_policy_towards_the_behavior_and_is_finite_at_zero():
    policy = th.full((1, 2, 1), 2.0, requires_grad=True)
    behavior = th.zeros(1, 2, 1)
    losses.mmd_divergence(policy, behavior, "laplacian", 1.0, "biased").backward()
    assert (policy.grad > 0).all()  # descending moves the samples from 2 towards 0
    same = th.zeros(1, 2, 1, requires_grad=True)
    losses.mmd_divergence(same, behavior, "gaussian", 1.0, "biased").backward()
    assert th.isfinite(same.grad).all()


def test_kl_divergence_is_that_of_squashed_actions():
    """The density of tanh(u) is that of u over the slope, 1 - tanh(u)^2; finite also where a float's tanh is 1."""
    th.manual_seed(0)
    mean, log_std, raw = th.randn(5, 3), 0.3 * th.randn(5, 3), th.randn(5, 4, 3)
    z = ((raw - mean.unsqueeze(1)) / log_std.exp().unsqueeze(1)).double()
    log_density = -0.5 * z**2 - log_std.unsqueeze(1) - 0.5 * math.log(2 * math.pi) - (1 - th.tanh(raw.double()) ** 2).log()
    assert losses.kl_divergence(raw, mean, log_std).item() == pytest.approx(-log_density.sum(2).mean().item(), abs=1e-5)
    assert th.isfinite(losses.kl_divergence(th.full((1, 1, 1), 30.0), th.zeros(1, 1), th.zeros(1, 1)))


def test_kl_divergence_by_hand_and_up_to_the_behaviors_entropy():
    # u = 0 under N(0, 1): -log pi = log sqrt(2 pi), and the tanh has slope 1 there.
    value = losses.kl_divergence(th.zeros(1, 1, 1), th.zeros(1, 1), th.zeros(1, 1))
    assert value.item() == pytest.approx(0.5 * math.log(2 * math.pi))
    # Between two policies, the difference is the difference of the true KL divergences.
    generator = th.Generator().manual_seed(0)
    behavior = 0.2 + 0.5 * th.randn(1, 200_000, 1, generator=generator)
    values = [
        losses.kl_divergence(behavior, th.tensor([[m]]), th.tensor([[s]])).item() for m, s in ((0.0, 0.0), (1.0, -0.5))
    ]
    true = [kl_divergence(Normal(0.2, 0.5), Normal(m, math.exp(s))).item() for m, s in ((0.0, 0.0), (1.0, -0.5))]
    assert values[1] - values[0] == pytest.approx(true[1] - true[0], rel=0.02)


def test_q_reductions_by_hand():
    q_values = th.tensor([[1.0, 6.0], [3.0, 2.0]])
    assert losses.reduce_q_values(q_values, "min").tolist() == [1.0, 2.0]
    assert losses.reduce_q_values(q_values, "max").tolist() == [3.0, 6.0]
    assert losses.reduce_q_values(q_values, "mean").tolist() == [2.0, 4.0]
    # std over critics 1 and 2 (population); sqrt(.9 / .1) = 3.
    penalized = losses.reduce_q_values(q_values, "mean", variance_penalty=0.5)
    assert penalized.tolist() == [pytest.approx(2.0 - 1.5, abs=1e-5), pytest.approx(4.0 - 3.0, abs=1e-5)]


def test_variance_penalty_is_differentiable_where_critics_agree():
    q_values = th.ones(2, 3, requires_grad=True)
    losses.reduce_q_values(q_values, "mean", variance_penalty=1.0).sum().backward()
    assert th.allclose(q_values.grad, th.full((2, 3), 0.5))


def test_multiplier_rises_while_the_constraint_is_violated_and_falls_otherwise():
    for divergence, direction in ((0.3, 1.0), (0.1, -1.0)):
        log_alpha = th.tensor([math.log(2.0)], requires_grad=True)
        value = th.tensor(divergence, requires_grad=True)
        losses.alpha_loss(log_alpha, value, 0.2).backward()
        # d(-alpha (d - eps)) / d log_alpha = -alpha (d - eps); descending it is ascending alpha (d - eps).
        assert log_alpha.grad.item() == pytest.approx(-2.0 * (divergence - 0.2))
        assert -log_alpha.grad.item() * direction > 0
        assert value.grad is None


def test_support_penalty_holds_alpha_fixed_and_pushes_the_divergence_down():
    log_alpha = th.tensor([math.log(3.0)], requires_grad=True)
    divergence = th.tensor(0.5, requires_grad=True)
    penalty = losses.support_penalty(log_alpha.exp(), divergence, 0.2)
    assert penalty.item() == pytest.approx(0.9)
    penalty.sum().backward()
    assert divergence.grad.item() == pytest.approx(3.0)
    assert log_alpha.grad is None


def test_auto_threshold_by_hand():
    # 2 sigma = 1: k = exp(-1) between the two samples of the first state, exp(-3) between those of the second.
    samples, spread = th.tensor([[[0.0], [1.0]], [[0.0], [3.0]]]), 1 - (math.exp(-1) + math.exp(-3)) / 2
    for estimator in ("biased", "pooled"):
        threshold = losses.auto_threshold(samples, "laplacian", 0.5, estimator)
        assert threshold.item() == pytest.approx(math.sqrt(1.5 * spread + 1e-6))
    assert losses.auto_threshold(samples, "laplacian", 0.5, "unbiased").item() == pytest.approx(spread)


@pytest.mark.parametrize("kernel", ["laplacian", "gaussian"])
@pytest.mark.parametrize("estimator", ["pooled", "unbiased"])
def test_auto_threshold_is_the_divergence_of_a_policy_that_repeats_one_of_the_behaviors_actions(kernel, estimator):
    x, y = same_gaussians(40_000)
    one_action = x[:, :1].expand(-1, 4, -1)
    divergence = losses.mmd_divergence(one_action, y, kernel, 20.0, estimator).item()
    assert losses.auto_threshold(y, kernel, 20.0, estimator).item() == pytest.approx(divergence, rel=0.02)
    # Roots that come first give a little less.
    if estimator == "pooled":
        biased = losses.mmd_divergence(one_action, y, kernel, 20.0, "biased").item()
        assert 0.9 * divergence < biased < losses.auto_threshold(y, kernel, 20.0, "biased").item()
    # An action of somewhere else is further away.
    assert losses.mmd_divergence(one_action + 0.3, y, kernel, 20.0, estimator).item() > 1.1 * divergence


@pytest.mark.parametrize(
    ("log_alpha", "divergence", "expected"), [(10.0, 0.3, 0.2), (10.1, 0.3, 0.2), (9.9, 0.3, 0.0), (10.0, 0.05, 0.0)]
)
def test_slack_distance_by_hand(log_alpha, divergence, expected):
    """What is missing, at alpha's bound only."""
    divergence = th.tensor(divergence, requires_grad=True)
    distance = losses.slack_distance(th.tensor([log_alpha], requires_grad=True), 10.0, divergence, th.tensor(0.1))
    assert distance.item() == pytest.approx(expected) and distance.shape == (1,)
    assert not distance.requires_grad


def test_least_alpha_by_hand():
    q_values = th.tensor([[2.0, -4.0], [6.0, 0.0]], requires_grad=True)
    least = losses.least_alpha(q_values)
    assert least.item() == pytest.approx(0.25 * 3.0)
    assert not least.requires_grad


@pytest.mark.parametrize("rule", ["published", "auto"])
def test_auto_threshold_can_be_met_where_the_floor_is_above_the_published_one(rule):
    """Four samples of N(0, .3^2 I_3) read over 0.1 at best: 0.05 is out of reach, and alpha stays at its bound for ever."""
    th.manual_seed(0)
    mean, log_std = th.full((3,), 0.5, requires_grad=True), th.zeros(3, requires_grad=True)
    log_alpha = th.zeros(1, requires_grad=True)
    optimizer, alpha_optimizer = th.optim.Adam([mean, log_std], 0.01), th.optim.Adam([log_alpha], 0.02)
    ends = []
    for _ in range(600):
        policy, behavior = mean + log_std.exp() * th.randn(32, 4, 3), 0.3 * th.randn(32, 4, 3)
        divergence = losses.mmd_divergence(policy, behavior, "laplacian", 20.0, "pooled")
        threshold = losses.auto_threshold(behavior, "laplacian", 20.0, "pooled") if rule == "auto" else 0.05
        value = -0.3 * (policy - 1.0).square().mean()
        for loss, one in (
            (losses.support_penalty(log_alpha.exp(), divergence, threshold).sum() - value, optimizer),
            (losses.alpha_loss(log_alpha, divergence, threshold), alpha_optimizer),
        ):
            one.zero_grad()
            loss.backward()
            one.step()
        log_alpha.data.clamp_(-5.0, 5.0)
        ends = [*ends[-99:], divergence.item() / float(threshold)]
    assert (log_alpha.item() == 5.0) == (rule == "published")
    if rule == "auto":
        assert sum(ends) / 100 == pytest.approx(1.0, abs=0.05)
        assert math.sqrt(1.25 * (0.109**2) / 0.5) == pytest.approx(float(threshold), abs=0.02)


def test_the_unbiased_estimates_sign_and_floor():
    assert losses.in_unit_of_epsilon(th.tensor(-0.04), "unbiased").item() == pytest.approx(-0.2)
    assert losses.in_unit_of_epsilon(th.tensor(0.04), "unbiased").item() == pytest.approx(0.2)
    # Equal distributions read 0 on average: it has no floor.
    assert losses.mmd_noise_floor(ONE_STATE_X, "laplacian", 0.5, "unbiased").item() == 0.0
    assert losses.mmd_noise_floor(ONE_STATE_X, "laplacian", 0.5, "pooled").item() > 0.5
