"""Whole episodes of T transitions and T+1 observations -> OfflineDataset."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.arrays import from_arrays
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset, as_array

# ("actions", None), or ("observations", "image") for one key of a Dict observation.
Column = tuple[str, str | None]


@dataclass(frozen=True)
class Episode:
    """
    One episode as a file holds it.

    :param name: What messages call it, such as ``"episode 3"``.
    :param observations: ``s_0 .. s_T``, shape ``(T+1, ...)``, or a dict of such arrays.
    :param actions: shape ``(T, ...)``.
    :param rewards: shape ``(T,)``.
    :param terminations: shape ``(T,)``.
    :param truncations: shape ``(T,)``. An episode that ends with neither flag was cut by the end of the data.
    """

    name: str
    observations: Any
    actions: Any
    rewards: Any
    terminations: Any
    truncations: Any


def from_episodes(episodes: Iterable[Episode], action_space: spaces.Space | None = None, **metadata: Any) -> OfflineDataset:
    """
    Make a dataset whose next observations are taken within each episode, never from the one that follows.

    :param episodes: The episodes; those without a transition are skipped.
    :param action_space: Taken where ``metadata`` has no ``action_space``.
    :param metadata: Further fields of :class:`OfflineDataset`: spaces, ``env_id``, ``reference_scores``.
    :return: The dataset; each episode is one of its episodes.
    :raises DatasetError: when an episode's fields do not have the same length, or the result is not a valid dataset.
    """
    parts: dict[Column, list[np.ndarray]] = {}
    lengths: list[int] = []
    for episode in episodes:
        if np.size(episode.rewards) == 0 and np.size(episode.actions) == 0:
            continue
        columns = _columns(episode)
        if lengths and columns.keys() != parts.keys():
            raise DatasetError(f"{episode.name} has observations {_keys(columns)}, the first episode {_keys(parts)}")
        for column, array in columns.items():
            first = parts.setdefault(column, [array])[0]
            if array.shape[1:] != first.shape[1:]:
                raise DatasetError(
                    f"{episode.name}: {_label(column)} has rows of shape {array.shape[1:]}, "
                    f"but {first.shape[1:]} in the first episode"
                )
            if lengths:
                parts[column].append(array)
        lengths.append(len(columns["rewards", None]))
    if not lengths:
        raise DatasetError("holds no transitions")
    content: dict[str, Any] = {"episode_ends": np.cumsum(lengths)}
    for column, arrays in parts.items():
        if column[0] == "observations":
            _put(content, column, [array[:-1] for array in arrays])
            _put(content, ("next_observations", column[1]), [array[1:] for array in arrays])
        else:
            _put(content, column, arrays)
    return from_arrays(content | metadata, action_space)


def _columns(episode: Episode) -> dict[Column, np.ndarray]:
    observations = episode.observations if isinstance(episode.observations, dict) else {None: episode.observations}
    values: dict[Column, Any] = {("observations", key): value for key, value in observations.items()}
    for name in ("actions", "rewards", "terminations", "truncations"):
        values[name, None] = getattr(episode, name)
    columns = {column: as_array(f"{episode.name}: {_label(column)}", value) for column, value in values.items()}
    steps = np.shape(columns["rewards", None])[:1]
    for column, array in columns.items():
        if array.ndim == 0 or not steps:
            raise DatasetError(f"{episode.name}: {_label(column)} is a single number: expected one row per step")
        expected = steps[0] + 1 if column[0] == "observations" else steps[0]
        if len(array) != expected:
            raise DatasetError(
                f"{episode.name}: {_label(column)} has {len(array)} rows but rewards has {steps[0]}: expected {expected}"
            )
    return columns


def _put(content: dict[str, Any], column: Column, arrays: list[np.ndarray]) -> None:
    name, key = column
    if key is None:
        content[name] = np.concatenate(arrays)
    else:
        content.setdefault(name, {})[key] = np.concatenate(arrays)


def _label(column: Column) -> str:
    name, key = column
    return name if key is None else f"{name}[{key!r}]"


def _keys(columns: Iterable[Column]) -> list[str | None]:
    return [key for name, key in columns if name == "observations"]
