"""HDF5 files: which of the formats with this suffix it is."""

from pathlib import Path

from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.readers.d3rlpy import load_d3rlpy
from sb3_pg_extras.datasets.readers.d4rl import load_d4rl
from sb3_pg_extras.datasets.readers.hdf5_arrays import listed, open_hdf5
from sb3_pg_extras.datasets.readers.robomimic import load_robomimic


def load_hdf5(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read an HDF5 file in D4RL's, robomimic's or d3rlpy's format, recognised by its top-level names.

    :param path: The file.
    :param action_space: The environment's action space; see the formats' own functions for what is assumed without.
    :return: The dataset.
    :raises DatasetError: when the file is missing, truncated, of no known format, or not a valid dataset.
    """
    with open_hdf5(path, "an HDF5 dataset") as file:
        names = {name for name in file if isinstance(name, str)}
    if "data" in names:
        return load_robomimic(path, action_space)
    if names & {"num_episodes", "observations_0"}:
        return load_d3rlpy(path, action_space)
    if names & {"observations", "actions"}:
        return load_d4rl(path, action_space)
    if "episode_0" in names:
        raise DatasetError(f"{path}: is a part of a Minari dataset. Pass the folder that holds it: {Path(path).parent}")
    raise DatasetError(
        f"{path}: neither D4RL's format (observations, actions, ...), nor robomimic's (data/demo_0/...), nor d3rlpy's "
        f"(observations_0, ...): found {listed(names)}"
    )
