"""Datasets: one module per format, each turning a file or an object into an :class:`OfflineDataset`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_pg_extras.datasets.arrays import from_arrays
from sb3_pg_extras.datasets.collect import collect_dataset
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.hdf5 import load_hdf5
from sb3_pg_extras.datasets.npz import load_npz
from sb3_pg_extras.datasets.sb3 import from_replay_buffer, load_replay_buffer

DatasetSource = OfflineDataset | ReplayBuffer | Mapping[str, Any] | str | Path

# A new file format is one more module and one more line here: suffix -> (path, action_space of the environment or None).
FILE_LOADERS: dict[str, Callable[[Path, spaces.Space | None], OfflineDataset]] = {
    ".npz": load_npz,
    ".hdf5": load_hdf5,
    ".h5": load_hdf5,
    ".pkl": lambda path, _: load_replay_buffer(path),
}
BUNDLED_PREFIX = "bundled:"
# Environment id -> name of the dataset in bundled/ that BEAR takes when it is given none.
BUNDLED_DATASETS = {"Pendulum-v1": "pendulum-mixed-v0"}

# The last file is kept: a hyper-parameter search makes one model per trial, all of them from the same file.
_last_loaded: dict[tuple[Any, ...], OfflineDataset] = {}


def load_dataset(source: DatasetSource, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Load a dataset from whatever holds it.

    :param source: An :class:`OfflineDataset` (returned as it is), an SB3 ``ReplayBuffer``, a dict of arrays, the path
        of an ``.npz`` file, of a zoo ``replay_buffer.pkl`` or of a D4RL, robomimic or d3rlpy HDF5 file, or
        ``"bundled:<name>"``. A file that has not changed since it was last loaded is not read again.
    :param action_space: The action space to assume for a source that names none (a dict of arrays, a bare ``.npz``, HDF5).
    :return: The dataset.
    :raises DatasetError: when the source is unknown, missing, truncated or invalid.
    """
    if isinstance(source, OfflineDataset):
        return source
    if isinstance(source, ReplayBuffer):
        return from_replay_buffer(source)
    if isinstance(source, Mapping):
        return from_arrays(source, action_space)
    if not isinstance(source, (str, Path)):
        raise DatasetError(
            f"dataset={source!r}: expected an OfflineDataset, an SB3 ReplayBuffer, a dict of arrays, a path or "
            f'"{BUNDLED_PREFIX}<name>", not {type(source).__name__}'
        )
    path = Path(source)
    if isinstance(source, str) and source.startswith(BUNDLED_PREFIX):
        name = source.removeprefix(BUNDLED_PREFIX)
        if name not in BUNDLED_DATASETS.values():
            raise DatasetError(f"dataset={source!r}: the bundled datasets are {sorted(BUNDLED_DATASETS.values())}")
        path = Path(__file__).parent / "bundled" / f"{name}.npz"
    if path.suffix not in FILE_LOADERS:
        raise DatasetError(f"dataset={str(source)!r}: unknown file format, expected one of {sorted(FILE_LOADERS)}")
    if not path.is_file():
        raise DatasetError(f"dataset={str(source)!r}: no such file")
    stat = path.stat()
    key = (path.resolve(), stat.st_mtime_ns, stat.st_size, str(action_space))
    dataset = _last_loaded.get(key)
    if dataset is None:
        dataset = FILE_LOADERS[path.suffix](path, action_space)
        _last_loaded.clear()
        _last_loaded[key] = dataset
    return dataset


def bundled_dataset_for(env_id: str | None) -> str | None:
    """
    :param env_id: Gymnasium id of an environment.
    :return: ``"bundled:<name>"`` of the dataset that ships for it, or None.
    """
    name = BUNDLED_DATASETS.get(env_id or "")
    return None if name is None else BUNDLED_PREFIX + name


__all__ = [
    "DatasetError",
    "DatasetSource",
    "OfflineDataset",
    "bundled_dataset_for",
    "collect_dataset",
    "load_dataset",
]
