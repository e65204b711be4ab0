"""Whether a dataset fits a model, and what the model takes: scaled actions, images channel first."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose

from sb3_pg_extras.datasets.dataset import ACTION_TOLERANCE, DatasetError, OfflineDataset


def check_spaces(dataset: OfflineDataset, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param dataset: The dataset.
    :param observation_space: The model's observation space; its bounds may differ from the data's, its shapes may not.
    :param action_space: The model's action space.
    :raises DatasetError: when the dataset's spaces differ from these.
    """
    if not _same_layout(dataset.observation_space, observation_space):
        raise DatasetError(
            f"observation_space of the dataset is {dataset.observation_space}, of the environment {observation_space}"
        )
    ours, theirs = dataset.action_space, action_space
    same = ours.shape == theirs.shape and type(ours) is type(theirs)
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        same = same and np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)
    elif same:
        same = ours == theirs
    if not same:
        raise DatasetError(f"action_space of the dataset is {ours}, of the environment {theirs}")


def has_spaces(dataset: OfflineDataset, observation_space: spaces.Space, action_space: spaces.Space) -> bool:
    """
    :param dataset: The dataset.
    :param observation_space: The model's observation space.
    :param action_space: The model's action space.
    :return: Whether the dataset's are these, as :func:`check_spaces` sees it.
    """
    try:
        check_spaces(dataset, observation_space, action_space)
    except DatasetError:
        return False
    return True


def _same_layout(ours: spaces.Space, theirs: spaces.Space) -> bool:
    if isinstance(ours, spaces.Dict) and isinstance(theirs, spaces.Dict):
        return set(ours.spaces) == set(theirs.spaces) and all(_same_layout(ours[key], theirs[key]) for key in ours.spaces)
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        transposed = is_image_space(theirs) and len(ours.shape) == 3 and (ours.shape[2], *ours.shape[:2]) == theirs.shape
        return ours.shape == theirs.shape or transposed
    return ours == theirs


# Scaled actions stay this far inside [-1, 1], where the inverse of tanh is finite.
ACTION_MARGIN = 1e-6


def policy_layout(observations: Any, space: spaces.Space) -> Any:
    """
    :param observations: shape (N, ...), or a dict of such arrays.
    :param space: The policy's observation space.
    :return: The same, images channel first where the space is; what is channel first already stays.
    """
    if isinstance(space, spaces.Dict):
        return {key: policy_layout(observations[key], space[key]) for key in space.spaces}
    return maybe_transpose(observations, space)


def scale_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """
    Environment units -> what SB3's replay buffers hold (``BasePolicy.scale_action``); discrete actions stay as they are.

    :param actions: shape ``(N, *space.shape)``.
    :param space: The action space.
    :return: The same shape, in [-1, 1], clipped to +-(1 - 1e-6).
    """
    if not isinstance(space, spaces.Box):
        return actions
    scaled = 2.0 * ((actions - space.low) / (space.high - space.low)) - 1.0
    return np.clip(scaled, -1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN).astype(np.float32)


def _unscale(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    if not isinstance(space, spaces.Box):
        return actions
    if not space.low.shape == space.high.shape == space.shape:
        raise DatasetError(f"action_space has bounds of shape {space.low.shape}, {space.high.shape}, not {space.shape}")
    too_large = np.abs(actions).reshape(len(actions), -1).max(axis=1) > 1 + ACTION_TOLERANCE
    if too_large.any():
        row = int(np.argmax(too_large))
        raise DatasetError(
            f"actions row {row} is {actions[row]}: SB3's replay buffers hold actions scaled to [-1, 1]. "
            "Pass actions in environment units as a dict of arrays instead"
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.clip(low + 0.5 * (actions + 1.0) * (high - low), low, high)
