"""Whole episodes of T transitions and T+1 observations -> OfflineDataset."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.dicts import map_arrays, map_named_arrays, named_arrays
from sb3_pg_extras.datasets.arrays import from_arrays, joined
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset, as_array


class Episode(NamedTuple):
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
    :param action_space: Used if ``metadata`` has no ``action_space``.
    :param metadata: Further fields of :class:`OfflineDataset`: spaces, ``env_id``, ``reference_scores``.
    :return: The dataset; each episode is one of its episodes.
    :raises DatasetError: when an episode's fields do not have the same length, or the result is not a valid dataset.
    """
    whole = (episode for episode in episodes if np.size(episode.rewards) or np.size(episode.actions))
    parts = [(episode.name, _transitions(episode)) for episode in whole]
    if not parts:
        raise DatasetError("holds no transitions")
    ends = np.cumsum([len(arrays["rewards"]) for _, arrays in parts])
    return from_arrays(joined(parts) | {"episode_ends": ends} | metadata, action_space)


def _transitions(episode: Episode) -> dict[str, Any]:
    """The fields of an episode as arrays of T rows each, the next observations too."""
    fields = episode._asdict()
    name = fields.pop("name")
    arrays = {field: map_named_arrays(as_array, f"{name}: {field}", value) for field, value in fields.items()}
    steps = len(arrays["rewards"])
    for field, value in arrays.items():
        expected = steps + (field == "observations")
        for label, array in named_arrays(f"{name}: {field}", value):
            if len(array) != expected:
                raise DatasetError(f"{label} has {len(array)} rows but rewards has {steps}: expected {expected}")
    observations = arrays.pop("observations")
    before, after = (map_arrays(lambda s, rows=rows: s[rows], observations) for rows in (slice(-1), slice(1, None)))
    return arrays | {"observations": before, "next_observations": after}
