"""Whether a dataset fits a model, and the layouts of SB3: scaled actions, images channel first, replay buffers."""

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.her import HerReplayBuffer

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.datasets.dataset import ACTION_TOLERANCE, DatasetError, OfflineDataset

# Scaled actions stay this far inside [-1, 1], where the inverse of tanh is finite.
ACTION_MARGIN = 1e-6


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
    if not _same_actions(dataset.action_space, action_space):
        raise DatasetError(f"action_space of the dataset is {dataset.action_space}, of the environment {action_space}")


def has_spaces(dataset: OfflineDataset, observation_space: spaces.Space, action_space: spaces.Space) -> bool:
    """:return: Whether :func:`check_spaces` finds nothing wrong."""
    same_actions = _same_actions(dataset.action_space, action_space)
    return same_actions and _same_layout(dataset.observation_space, observation_space)


def _same_actions(ours: spaces.Space, theirs: spaces.Space) -> bool:
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box) and ours.shape == theirs.shape:
        return np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)
    return ours == theirs


def _same_layout(ours: spaces.Space, theirs: spaces.Space) -> bool:
    if isinstance(ours, spaces.Dict) and isinstance(theirs, spaces.Dict):
        return set(ours.spaces) == set(theirs.spaces) and all(_same_layout(ours[key], theirs[key]) for key in ours.spaces)
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        transposed = is_image_space(theirs) and len(ours.shape) == 3 and (ours.shape[2], *ours.shape[:2]) == theirs.shape
        return ours.shape == theirs.shape or transposed
    return ours == theirs


def policy_layout(observations: Any, space: spaces.Space) -> Any:
    """
    :param observations: shape (N, ...), or a dict of such arrays.
    :param space: The policy's observation space.
    :return: The same, with images channel first if the space is; images that are channel first already stay so.
    """
    return map_arrays(maybe_transpose, observations, space)


def scale_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """
    Environment units -> what SB3's replay buffers hold (``BasePolicy.scale_action``); discrete actions stay as they are.

    :param actions: shape ``(N, *space.shape)``.
    :param space: The action space.
    :return: The same shape, in [-1, 1], clipped to +-(1 - 1e-6); 0 in a dimension whose bounds are equal.
    """
    if not isinstance(space, spaces.Box):
        return actions
    width = space.high - space.low
    # In place: at a million rows, each copy counts.
    scaled = (actions - space.low).astype(np.float32, copy=False)
    scaled /= np.where(width > 0, width, 1)
    scaled *= 2
    scaled -= 1
    scaled[:, width <= 0] = 0
    return np.clip(scaled, -1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN, out=scaled)


def unscale_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """
    The inverse of :func:`scale_actions`.

    :param actions: in [-1, 1], shape ``(N, *space.shape)``, or flat as in SB3's replay buffers.
    :param space: The action space.
    :return: shape ``(N, *space.shape)``, in environment units.
    :raises DatasetError: when an action is not scaled.
    """
    if not isinstance(space, spaces.Box):
        return actions
    if not space.low.shape == space.high.shape == space.shape:
        raise DatasetError(f"action_space has bounds of shape {space.low.shape}, {space.high.shape}, not {space.shape}")
    actions = actions.reshape(len(actions), *space.shape)
    too_large = np.abs(actions).reshape(len(actions), -1).max(axis=1) > 1 + ACTION_TOLERANCE
    if too_large.any():
        row = int(np.argmax(too_large))
        raise DatasetError(
            f"actions row {row} is {actions[row]}: SB3's replay buffers hold actions scaled to [-1, 1]. "
            "Pass actions in environment units as a dict of arrays instead"
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return np.clip(low + 0.5 * (actions + 1.0) * (high - low), low, high)


def to_replay_buffer(dataset: OfflineDataset, buffer: ReplayBuffer) -> None:
    """
    Fill an empty SB3 replay buffer: the inverse of reading one. What is added later follows the dataset.

    Environment ``e`` gets the rows ``e L ... (e + 1) L - 1``, ``L = N // n_envs``. SB3's buffers have the same length for
    every environment, so the last ``N mod n_envs`` rows are left out.

    Where an episode just stops, or an environment's rows end, the last row is marked truncated, since SB3 has no other mark
    for it: its value is bootstrapped as before, and n-step returns and readers of the buffer stop there.

    :param dataset: The dataset, in the spaces of the buffer.
    :param buffer: A buffer without any transition, images channel first or last.
    :raises ValueError: when the buffer is not empty, has no room, or cannot hold truncations; for HER's buffer.
    :raises DatasetError: when there are fewer transitions than environments.
    """
    n_envs, length = buffer.n_envs, len(dataset) // buffer.n_envs
    if buffer.size() > 0:
        raise ValueError(f"the replay buffer already holds {buffer.size() * n_envs} transitions: pass an empty one")
    if isinstance(buffer, HerReplayBuffer):
        raise ValueError("HerReplayBuffer samples only from episodes that were added step by step: pass keep_dataset=False")
    if not buffer.handle_timeout_termination:
        # With optimize_memory_usage SB3 insists on False.
        raise ValueError(
            "handle_timeout_termination=False (which optimize_memory_usage=True needs) makes truncations terminal "
            "and joins the dataset's episodes: leave both out"
        )
    if length > buffer.buffer_size:
        raise ValueError(
            f"buffer_size={buffer.buffer_size * n_envs}: the dataset has {len(dataset)} transitions, make it larger"
        )
    if length == 0:
        raise DatasetError(f"the dataset has {len(dataset)} transitions, fewer than the {n_envs} environments")
    ends = np.zeros(len(dataset), dtype=bool)
    ends[dataset.episode_ends - 1] = True
    ends[length * np.arange(1, n_envs + 1) - 1] = True

    def fill(target: np.ndarray, rows: np.ndarray) -> None:
        # (N, ...) -> the first `length` steps of each environment, (buffer_size, n_envs, ...).
        for env in range(n_envs):
            target[:length, env] = rows[env * length : (env + 1) * length].reshape(length, *target.shape[2:])

    for name in ("observations", "next_observations"):
        map_arrays(fill, getattr(buffer, name), policy_layout(getattr(dataset, name), buffer.observation_space))
    fill(buffer.actions, scale_actions(dataset.actions, buffer.action_space))
    fill(buffer.rewards, dataset.rewards)
    fill(buffer.dones, ends)
    fill(buffer.timeouts, ends & ~dataset.terminations)
    buffer.pos = length % buffer.buffer_size
    buffer.full = length == buffer.buffer_size
