"""D4RL's HDF5 files: flat arrays, with flags where episodes end."""

from pathlib import Path

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.readers.hdf5_arrays import has_member, open_hdf5, read_columns
from sb3_pg_extras.datasets.reading import warn_of_time_limits
from sb3_pg_extras.datasets.rows import from_rows


def load_d4rl(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read a D4RL file: ``observations``, ``actions``, ``rewards``, ``terminals``, and where the file has them ``timeouts``
    and ``next_observations``; ``infos/*`` and ``metadata/*`` are not read.

    An episode ends at each terminal, at each timeout and with the file. A step with both flags is a terminal: its value is
    not bootstrapped. In a file without ``timeouts`` only terminals end an episode: a time limit cannot be seen there, and
    the first observation of the next episode counts as the next observation.

    In a file without ``next_observations`` the step at a timeout, and the file's last unless it is a terminal, have no
    next observation and are dropped, as :func:`~sb3_pg_extras.datasets.rows.from_rows` describes.

    :param path: The file.
    :param action_space: The environment's action space; by default a Box of [-1, 1], as in all of D4RL's tasks.
    :return: The dataset.
    :raises DatasetError: when the file is missing, truncated, or not a valid dataset.
    """
    with open_hdf5(path, "a D4RL dataset") as file:
        if has_member(file, "episode_terminals"):
            raise DatasetError("field 'episode_terminals' is d3rlpy 1's: read the file with d3rlpy 2 and dump it again")
        names = ["terminals", "observations", "actions", "rewards"]
        names += [name for name in ("timeouts", "next_observations") if has_member(file, name)]
        fields, _ = read_columns(file, {name: [name] for name in names}, flags=("terminals", "timeouts"))
        terminations = fields.pop("terminals")
        if "timeouts" not in fields:
            warn_of_time_limits("terminals without timeouts")
        truncations = fields.pop("timeouts", np.zeros_like(terminations)) & ~terminations
        dones = terminations | truncations
        dones[-1] = True
        fields |= {"terminations": terminations, "truncations": truncations}
        return from_rows(fields, np.flatnonzero(dones) + 1, action_space)
