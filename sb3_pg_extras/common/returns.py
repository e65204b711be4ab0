"""Discounted returns."""

import numpy as np


def discounted_returns(rewards: np.ndarray, episode_ends: np.ndarray, gamma: float) -> np.ndarray:
    """
    Discounted reward-to-go ``R_t = sum_k gamma^k r_{t+k}`` within each episode (Sutton & Barto 2018, equation 3.8).

    Without a loop over steps: after pass p each step holds its first ``2^p`` terms, and the next pass adds the
    ``2^p`` terms that the step ``2^p`` further on holds.

    :param rewards: Rewards of episodes that follow each other, shape (N,).
    :param episode_ends: For each episode the index after its last step, shape (E,), the last being N.
    :param gamma: Discount factor.
    :return: shape (N,), float64.
    """
    returns = rewards.astype(np.float64)
    lengths = np.diff(episode_ends, prepend=0)
    steps_left = np.repeat(episode_ends, lengths) - np.arange(len(rewards))
    shift, factor = 1, gamma
    while shift < lengths.max(initial=0):
        reach = np.flatnonzero(steps_left > shift)
        returns[reach] += factor * returns[reach + shift]
        shift, factor = 2 * shift, factor * factor
    return returns


def n_step_returns(
    rewards: np.ndarray, episode_ends: np.ndarray, n_steps: int, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    The n-step return ``sum_{j<k} gamma^j r_{t+j}`` of each step; k is n, or less where the episode ends before
    (Sutton & Barto 2018, equation 7.1, without the value at its end).

    :param rewards: Rewards of episodes that follow each other, shape (N,).
    :param episode_ends: For each episode the index after its last step, shape (E,), the last being N.
    :param n_steps: n, at least 1.
    :param gamma: Discount factor.
    :return: The returns, float64; ``gamma^k``, what the value at the end counts; the last step ``t+k-1``; each (N,).
    """
    steps = np.arange(len(rewards))
    n_left = np.repeat(episode_ends, np.diff(episode_ends, prepend=0)) - steps
    lengths = np.minimum(n_left, n_steps)
    returns = np.zeros(len(rewards))
    for step in range(n_steps):
        inside = np.flatnonzero(step < lengths)
        returns[inside] += gamma**step * rewards[inside + step]
    return returns, gamma**lengths, steps + lengths - 1
