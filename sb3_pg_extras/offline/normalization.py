"""Means and variances of a dataset, as ``VecNormalize`` uses them."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd

from sb3_pg_extras.common.returns import discounted_returns
from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.datasets.mapped import parts

# As in SB3's VecNormalize.
EPSILON, CLIP = 1e-8, 10.0


def running_returns(dataset: OfflineDataset, gamma: float) -> np.ndarray:
    """
    :param dataset: A dataset.
    :param gamma: Discount factor.
    :return: For each step the discounted sum of its episode's rewards so far, as ``VecNormalize.step_wait`` keeps it to
        normalise rewards; shape (N,), float64.
    """
    # The same sum as a return-to-go, backwards.
    n_rows = len(dataset)
    starts = np.concatenate([[0], dataset.episode_ends[:-1]])
    return discounted_returns(dataset.rewards[::-1], (n_rows - starts)[::-1], gamma)[::-1]


def is_vector_space(space: spaces.Space) -> bool:
    """
    :param space: An observation space.
    :return: Whether its observations are vectors of real numbers.
    """
    return isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"


def normalized(observations: Any, rms: RunningMeanStd) -> Any:
    """
    As SB3's ``VecNormalize.normalize_obs``.

    :param observations: shape (B, ...).
    :param rms: Their mean and variance.
    :return: ``(observations - mean) / std``, clipped to +-10, float32.
    """
    return np.clip((observations - rms.mean) / np.sqrt(rms.var + EPSILON), -CLIP, CLIP).astype(np.float32)


def set_moments(rms: RunningMeanStd, values: np.ndarray) -> RunningMeanStd:
    """
    :param rms: Gets the values' mean and variance over the first axis, and their number.
    :param values: shape (N, ...).
    :return: The same ``rms``.
    """
    count, mean, squares = 0, np.zeros(values.shape[1:]), np.zeros(values.shape[1:])
    for part in parts(values):
        # Two parts' squared deviations add up, and those of their means (Chan et al. 1979).
        part_mean = part.mean(axis=0, dtype=np.float64)
        distance, total = part_mean - mean, count + len(part)
        squares = squares + part.var(axis=0, dtype=np.float64) * len(part) + distance**2 * count * len(part) / total
        mean, count = mean + distance * len(part) / total, total
    rms.mean, rms.var, rms.count = mean, squares / count, count
    return rms
