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
