"""Rows of episodes with one observation per step, as in many files -> OfflineDataset, with next observations."""

import warnings
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.dicts import map_arrays, named_arrays
from sb3_pg_extras.datasets.arrays import from_arrays
from sb3_pg_extras.datasets.dataset import ACTION_TOLERANCE, DatasetError, OfflineDataset, as_array

# Rows moved at a time: copies stay small next to the data.
CHUNK = 1 << 14
# Dropped rewards are warned of when their mean size is so many times that of all.
LARGE_REWARD = 2


def from_rows(
    fields: dict[str, Any], episode_ends: np.ndarray, action_space: spaces.Space | None, env_id: str | None = None
) -> OfflineDataset:
    """
    Make a dataset from the rows of episodes that follow each other.

    Without ``next_observations`` the next observation is that of the next row of the same episode, so the last row of an
    episode has none:

    - After a terminal state nothing counts: the row stays, with its own observation as the next.
    - Otherwise the row is dropped. The row before it is then the episode's last, as ``episode_ends`` says. Its next
      observation is the dropped row's, a real one, and its value is bootstrapped like any other. If the dropped row was
      truncated, the row before it is marked truncated instead, so that the episode still counts as one that reached its
      time limit; its return lacks the dropped reward. An episode of that single row disappears. Dropped rewards that are
      much larger than the others, such as one for success in the last row, are warned of.

    :param fields: ``observations`` (an array or a dict of arrays), ``actions``, ``rewards``, ``terminations``,
        ``truncations`` (bool), and ``next_observations`` where the file has them. The arrays are changed in place and
        become the dataset's.
    :param episode_ends: For each episode the row after its last one, increasing; each termination and truncation is one.
    :param action_space: The action space; None assumes ``[-1, 1]`` for floats and ``0 ... max`` for integers.
    :param env_id: Name of the environment, if known.
    :return: The dataset.
    :raises DatasetError: when the fields differ in length, or no transition is left.
    """
    n_rows = len(fields["terminations"])
    for name, value in fields.items():
        for label, array in named_arrays(name, value):
            if len(array) != n_rows:
                raise DatasetError(f"{label} has {len(array)} rows but the flags have {n_rows}")
    if action_space is None:
        action_space = _assumed_action_space(as_array("actions", fields["actions"]))
    if "next_observations" not in fields:
        fields, episode_ends = _with_next_observations(fields, episode_ends)
    return from_arrays(fields | {"episode_ends": episode_ends, "env_id": env_id}, action_space)


def _with_next_observations(fields: dict[str, Any], ends: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
    terminations, truncations = fields["terminations"], fields["truncations"]
    last = ends - 1
    lost = last[~terminations[last]]
    _warn_of_lost_rewards(fields["rewards"], lost)
    keep = np.ones(len(terminations), bool)
    keep[lost] = False
    if not keep.any():
        raise DatasetError("no transitions: no row has a next observation, every episode is a single row without a terminal")
    starts = np.append(0, ends[:-1])
    moved = last[(last > starts) & truncations[last] & ~terminations[last]]
    truncations[moved - 1] = True

    def following(array: np.ndarray) -> np.ndarray:
        rows = np.empty((np.count_nonzero(keep), *array.shape[1:]), array.dtype)
        return _fill(rows, array, keep, ~terminations)

    next_observations = map_arrays(following, fields["observations"])
    # In place: kept rows move to the front.
    fields = {name: map_arrays(lambda array: _fill(array, array, keep), value) for name, value in fields.items()}
    ends = ends - np.searchsorted(lost, last, side="right")
    # An episode without rows ends where the one before it does.
    return fields | {"next_observations": next_observations}, ends[np.diff(ends, prepend=0) > 0]


def _warn_of_lost_rewards(rewards: Any, lost: np.ndarray) -> None:
    rewards = as_array("rewards", rewards)
    size, lost_size = np.abs(rewards).mean(), np.abs(rewards[lost]).mean() if len(lost) else 0.0
    if lost_size > LARGE_REWARD * size:
        warnings.warn(
            f"the last rows of {len(lost)} episodes that do not terminate are dropped, having no next observation, and with "
            f"them rewards of {lost_size:.3g} on average, where all rows have {size:.3g}. If an episode ends there, as with "
            "success, mark the row as terminated; otherwise give next observations, or move the reward one row up"
        )


def _fill(target: np.ndarray, array: np.ndarray, keep: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
    """Write the kept rows, or where ``shift`` is set those that follow them, to the front of ``target``, part by part."""
    stop = 0
    for start in range(0, len(keep), CHUNK):
        index = start + np.flatnonzero(keep[start : start + CHUNK])
        target[stop : stop + len(index)] = array[index if shift is None else index + shift[index]]
        stop += len(index)
    return target[:stop]


def _assumed_action_space(actions: np.ndarray) -> spaces.Space:
    flat = actions.reshape(len(actions), -1)
    if actions.dtype.kind in "biu":
        if flat.shape[1] != 1 or flat.min() < 0:
            raise DatasetError(f"actions are integers of shape {actions.shape}, minimum {flat.min()}: pass action_space")
        space = spaces.Discrete(int(flat.max()) + 1)
        warnings.warn(
            f"actions are integers: they are taken for choices, {space}. Pass action_space if there are more of them, or a "
            "Box if they are quantities"
        )
        return space
    if max(flat.max(), -flat.min()) > 1 + ACTION_TOLERANCE:
        row = int(np.argmax((np.abs(flat) > 1 + ACTION_TOLERANCE).any(axis=1)))
        raise DatasetError(f"actions row {row} is {actions[row]}, outside the [-1, 1] assumed: pass action_space")
    return spaces.Box(-1, 1, actions.shape[1:] or (1,), np.float32)
