"""d3rlpy 2's ``ReplayBuffer.dump``: an HDF5 file with one array per column and episode."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.readers.hdf5_arrays import has_member, listed, open_hdf5, read_columns, read_integer
from sb3_pg_extras.datasets.rows import from_rows

COLUMNS = ("observations", "actions", "rewards")


def load_d3rlpy(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read what d3rlpy 2 dumps: ``observations_0``, ``actions_0``, ``rewards_0``, ``terminated_0``, and so on for
    ``num_episodes``. Tuples of observations (``observations_0_0``) are not supported.

    The file only says whether an episode terminated: any other counts as truncated, as in d3rlpy. Its last step
    has no next observation and is dropped, as :func:`~sb3_pg_extras.datasets.rows.from_rows` describes.

    :param path: The file.
    :param action_space: The environment's action space; by default a Box of [-1, 1], or for integers ``Discrete`` with
        as many actions as the file shows.
    :return: The dataset.
    :raises DatasetError: when the file is missing, truncated, or not a valid dataset.
    """
    with open_hdf5(path, "a d3rlpy dataset") as file:
        if has_member(file, "observations_0_0"):
            raise DatasetError("field 'observations_0_0': tuples of observations are not supported, only single arrays")
        n_episodes = read_integer(file, "num_episodes")
        if not 1 <= n_episodes <= len(file) or has_member(file, f"observations_{n_episodes}"):
            raise DatasetError(f"field 'num_episodes' is {n_episodes}, but the file holds {listed(file)}")
        fields, lengths = read_columns(file, {name: [f"{name}_{i}" for i in range(n_episodes)] for name in COLUMNS})
        terminated, ends = np.array([_terminated(file, i) for i in range(n_episodes)]), np.cumsum(lengths)
        terminations, truncations = np.zeros((2, ends[-1]), bool)
        terminations[ends - 1], truncations[ends - 1] = terminated, ~terminated
        return from_rows(fields | {"terminations": terminations, "truncations": truncations}, ends, action_space)


def _terminated(file: Any, episode: int) -> bool:
    value = read_integer(file, f"terminated_{episode}")
    if value not in (0, 1):
        raise DatasetError(f"field 'terminated_{episode}' is {value}: it must be False or True (0 or 1)")
    return bool(value)
