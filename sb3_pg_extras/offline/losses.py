"""
Losses that more than one offline algorithm descends: pure functions of tensors, never of networks.

Letters in shapes: B states in the batch, n samples per state, A action dimensions, L latent dimensions, C critics.
"""

import torch as th
from torch.nn import functional as F


def vae_loss(
    reconstruction: th.Tensor, actions: th.Tensor, mean: th.Tensor, log_std: th.Tensor
) -> tuple[th.Tensor, th.Tensor]:
    """
    The two terms of the behaviour VAE's loss (BCQ, Fujimoto et al. 2019; ``train`` in BEAR's ``algos.py``); the loss is
    ``reconstruction_loss + vae_kl_weight * kl_loss``.

    :param reconstruction: Decoded actions in [-1, 1], shape (B, A).
    :param actions: The dataset's actions in [-1, 1], shape (B, A).
    :param mean: Mean of the latent, shape (B, L).
    :param log_std: Log standard deviation of the latent, shape (B, L).
    :return: ``reconstruction_loss``, the mean squared error; ``kl_loss``, the KL from N(mean, std) to N(0, 1), averaged
        over batch and latent dimensions. Scalars.
    """
    assert reconstruction.shape == actions.shape and mean.shape == log_std.shape
    kl = -0.5 * (1.0 + 2.0 * log_std - mean.square() - (2.0 * log_std).exp())
    return F.mse_loss(reconstruction, actions), kl.mean()


def mixed_target_q_values(
    rewards: th.Tensor, terminations: th.Tensor, next_q_values: th.Tensor, gamma: float | th.Tensor, mixture: float
) -> th.Tensor:
    """
    The Bellman target of BCQ and BEAR (Fujimoto et al. 2019, Algorithm 1; Kumar et al. 2019, Algorithm 1):
    ``r + gamma (1 - terminated) max_i [mixture min_j Q_j(s', a_i) + (1 - mixture) max_j Q_j(s', a_i)]``.

    :param rewards: shape (B, 1).
    :param terminations: 1 where s' is terminal, shape (B, 1).
    :param next_q_values: Target critics at s' for n sampled actions, shape (C, B, n).
    :param gamma: Discount factor, or for n-step returns one for each transition, shape (B, 1).
    :param mixture: Weight of the minimum over critics.
    :return: shape (B, 1).
    """
    assert next_q_values.ndim == 3 and rewards.shape == terminations.shape == (next_q_values.shape[1], 1)
    assert not isinstance(gamma, th.Tensor) or gamma.shape == rewards.shape
    lowest, highest = next_q_values.amin(dim=0), next_q_values.amax(dim=0)
    best = (mixture * lowest + (1.0 - mixture) * highest).amax(dim=1, keepdim=True)
    return rewards + gamma * (1.0 - terminations) * best


def ensemble_critic_loss(
    current_q_values: th.Tensor, target_q_values: th.Tensor, mask: th.Tensor | None = None
) -> th.Tensor:
    """
    Mean squared Bellman error, summed over critics.

    :param current_q_values: ``Q_j(s, a)``, shape (C, B).
    :param target_q_values: shape (B, 1); no gradient flows to it.
    :param mask: 1 where a critic learns from a transition, shape (C, B); None for all (bootstrapped ensembles,
        Osband et al. 2016).
    :return: scalar.
    """
    assert target_q_values.shape == (current_q_values.shape[1], 1)
    errors = (current_q_values - target_q_values.detach().squeeze(1)).square()
    if mask is not None:
        assert mask.shape == errors.shape
        errors = errors * mask
    return errors.mean(dim=1).sum()
