"""Whole episodes of T transitions and T+1 observations -> OfflineDataset."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.dicts import map_arrays, map_named_arrays, named_arrays
from sb3_pg_extras.datasets.arrays import check_like_first, from_arrays
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset, as_array


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
    checked: list[dict[str, Any]] = []
    for episode in episodes:
        if np.size(episode.rewards) or np.size(episode.actions):
            checked.append(_arrays(episode))
            check_like_first(episode.name, checked[-1], checked[0])
    if not checked:
        raise DatasetError("holds no transitions")
    content: dict[str, Any] = {"episode_ends": np.cumsum([len(arrays["rewards"]) for arrays in checked])}
    for name in checked[0]:
        values = [arrays[name] for arrays in checked]
        if name == "observations":
            content[name] = map_arrays(partial(_joined, rows=slice(None, -1)), *values)
            content["next_observations"] = map_arrays(partial(_joined, rows=slice(1, None)), *values)
        else:
            content[name] = _joined(*values)
    return from_arrays(content | metadata, action_space)


def _joined(*arrays: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
    return np.concatenate([array[rows] for array in arrays])


def _arrays(episode: Episode) -> dict[str, Any]:
    """The fields of an episode, as arrays whose lengths agree."""
    names = [field.name for field in fields(Episode) if field.name != "name"]
    arrays = {name: map_named_arrays(as_array, f"{episode.name}: {name}", getattr(episode, name)) for name in names}
    steps = len(arrays["rewards"])
    for name, value in arrays.items():
        expected = steps + (name == "observations")
        for label, array in named_arrays(f"{episode.name}: {name}", value):
            if len(array) != expected:
                raise DatasetError(f"{label} has {len(array)} rows but rewards has {steps}: expected {expected}")
    return arrays
