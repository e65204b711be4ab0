"""Means and variances of a dataset, as SB3's ``VecNormalize`` uses them."""

from copy import deepcopy
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.returns import discounted_returns
from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.datasets.layout import policy_layout
from sb3_pg_extras.datasets.mapped import parts

# As in SB3's VecNormalize.
EPSILON, CLIP = 1e-8, 10.0


def set_moments(rms: RunningMeanStd, values: np.ndarray) -> RunningMeanStd:
    """
    :param rms: Set to the values' mean and variance over the first axis, and their number.
    :param values: shape (N, ...).
    :return: The same ``rms``.
    """
    rms.mean, rms.var, rms.count = np.zeros(values.shape[1:]), np.zeros(values.shape[1:]), 0
    for part in parts(values):
        rms.update_from_moments(part.mean(axis=0, dtype=np.float64), part.var(axis=0, dtype=np.float64), len(part))
    return rms


def running_returns(dataset: OfflineDataset, gamma: float) -> np.ndarray:
    """
    :param dataset: A dataset.
    :param gamma: Discount factor.
    :return: For each step the discounted sum of its episode's rewards so far, as ``VecNormalize.step_wait`` keeps it to
        normalise rewards; shape (N,), float64.
    """
    # The same sum as a return-to-go, backwards.
    return discounted_returns(dataset.rewards[::-1], (len(dataset) - dataset.episode_starts)[::-1], gamma)[::-1]


def what_is_normalized(env: VecNormalize | None) -> str:
    """:return: What ``VecNormalize``, where there is one, normalises, in words."""
    if env is None or not (env.norm_obs or env.norm_reward):
        return "off"
    return f"(norm_obs={env.norm_obs}, norm_reward={env.norm_reward})"


def copy_statistics(source: VecNormalize | None, target: VecNormalize | None) -> None:
    """
    :param source: The wrapper to copy from, or None.
    :param target: The wrapper to give the same statistics, or None.
    """
    if source is not None and target is not None and source is not target:
        target.ret_rms = deepcopy(source.ret_rms)
        if target.norm_obs:
            target.obs_rms = deepcopy(source.obs_rms)


def freeze_statistics(env: VecNormalize, dataset: OfflineDataset) -> None:
    """
    Give ``VecNormalize`` the statistics of a dataset and stop it from changing them: offline training never steps the
    environment, whose own statistics would stay empty. Those of a wrapper that has stopped already stay.

    :param env: The wrapper.
    :param dataset: The dataset, as it is before any normalisation.
    """
    rms: Any = env.obs_rms if env.norm_obs else env.ret_rms
    if not env.training and all(part.count >= 1 for part in (rms.values() if isinstance(rms, dict) else [rms])):
        return
    env.training = False
    if env.norm_obs:
        map_arrays(set_moments, env.obs_rms, policy_layout(dataset.observations, env.observation_space))
    if env.norm_reward:
        set_moments(env.ret_rms, running_returns(dataset, env.gamma))


def check_normalized_once(env: VecNormalize, normalize_observations: bool, normalize_rewards: bool) -> None:
    """
    :param env: The wrapper around the environment.
    :param normalize_observations: Whether the networks normalise observations.
    :param normalize_rewards: Whether the replay buffer normalises rewards.
    :raises ValueError: when both normalise the same quantity.
    """
    for name, ours, theirs in (
        ("observations", normalize_observations, env.norm_obs),
        ("rewards", normalize_rewards, env.norm_reward),
    ):
        if ours and theirs:
            raise ValueError(f"normalize_{name}=True and a VecNormalize environment, which normalises them too: choose one")
