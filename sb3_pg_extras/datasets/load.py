"""Loading a dataset from any source, and saving one. Each format has its reader."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_pg_extras.datasets.arrays import from_arrays
from sb3_pg_extras.datasets.dataset import CLIP_ACTIONS, DatasetError, OfflineDataset
from sb3_pg_extras.datasets.progress import progress_bar
from sb3_pg_extras.datasets.readers.hdf5 import load_hdf5
from sb3_pg_extras.datasets.readers.imitation import is_imitation_folder, load_imitation
from sb3_pg_extras.datasets.readers.minari import PREFIX as MINARI_PREFIX
from sb3_pg_extras.datasets.readers.minari import is_minari_folder, load_minari, minari_folder, save_minari
from sb3_pg_extras.datasets.readers.npz import load_npz, save_npz
from sb3_pg_extras.datasets.readers.parquet import load_parquet, parquet_shards
from sb3_pg_extras.datasets.readers.replay_buffer import from_replay_buffer, load_replay_buffer
from sb3_pg_extras.datasets.readers.table import ColumnNames, from_table, load_csv
from sb3_pg_extras.datasets.sharded import is_sharded

if TYPE_CHECKING:
    from minari import MinariDataset
    from pandas import DataFrame

DatasetSource = Union[OfflineDataset, ReplayBuffer, Mapping[str, Any], "DataFrame", "MinariDataset", str, Path]
Loader = Callable[[Path, spaces.Space | None], OfflineDataset]

# A new file format is one more module and one more line here: suffix -> (path, action_space of the environment or None).
FILE_LOADERS: dict[str, Loader] = {
    ".npz": load_npz,
    ".csv": load_csv,
    ".hdf5": load_hdf5,
    ".h5": load_hdf5,
    ".pkl": lambda path, _: load_replay_buffer(path),
    ".parquet": load_parquet,
}
# The first that matches a folder loads it. Minari's folders may hold parquet files, so Minari comes before parquet.
FOLDER_LOADERS: list[tuple[Callable[[Path], Any], Loader]] = [
    (is_minari_folder, lambda path, _: load_minari(path)),
    (is_imitation_folder, load_imitation),
    (parquet_shards, load_parquet),
]
BUNDLED_PREFIX = "bundled:"
# Environment id -> name of the dataset in bundled/ that BEAR takes when it is given none.
BUNDLED_DATASETS = {"Pendulum-v1": "pendulum-mixed-v0"}

# The last file is kept: a hyper-parameter search makes one model per trial, all of them from the same file.
_last_loaded: dict[tuple[Any, ...], OfflineDataset] = {}


def load_dataset(
    source: DatasetSource,
    action_space: spaces.Space | None = None,
    verbose: int = 1,
    *,
    clip_actions: bool = False,
    observation_keys: Sequence[str] | None = None,
    columns: ColumnNames | None = None,
) -> OfflineDataset:
    """
    Load a dataset from any supported source.

    :param source: An :class:`OfflineDataset` (returned as it is), an SB3 ``ReplayBuffer``, a ``minari.MinariDataset``, a
        dict of arrays, a pandas DataFrame, the path of a file or a folder in one of the formats of ``docs/datasets.md``,
        ``"minari:<id>"``, or ``"bundled:<name>"``. The file that was loaded last is not read again until it changes, unless
        it is a CSV file.
    :param action_space: The action space to assume for a source that names none (a dict of arrays, a bare ``.npz``,
        HDF5, trajectories of ``imitation``, parquet files).
    :param verbose: 0 for no output, 1 for a progress bar (on stderr) on a load that takes more than two seconds.
    :param clip_actions: Whether real actions outside the bounds of the action space are clipped, with a warning that says
        how many, instead of refused. Actions are never clipped to bounds that are only assumed because no space is known.
    :param observation_keys: Which of several observations to keep; one gives a Box observation space, several a Dict.
    :param columns: For a CSV file or a DataFrame, which of its columns hold ``"observations"``, ``"actions"``,
        ``"rewards"``, ``"terminations"``, ``"truncations"``, the ``"episode"`` and ``"next_observations"``.
    :return: The dataset.
    :raises DatasetError: when the source is unknown, missing, truncated or invalid.
    :raises MissingPackageError: when the format needs a package that is not installed.
    """
    token = CLIP_ACTIONS.set(clip_actions)
    try:
        dataset = _load(source, action_space, verbose, columns)
    finally:
        CLIP_ACTIONS.reset(token)
    return dataset if observation_keys is None else _with_observations(dataset, list(observation_keys))


def _with_observations(dataset: OfflineDataset, keys: list[str]) -> OfflineDataset:
    names = ("observations", "next_observations", "observation_space")
    space: Any = dataset.observation_space
    known = list(space) if isinstance(space, spaces.Dict) else []
    if not keys or set(keys) - set(known):
        raise DatasetError(f"observation_keys={keys}: the dataset's observations are {known or 'a single array'}")
    kept: dict[str, Any] = {name: {key: getattr(dataset, name)[key] for key in keys} for name in names}
    if len(keys) == 1:
        kept = {name: value[keys[0]] for name, value in kept.items()}
    else:
        kept["observation_space"] = spaces.Dict(kept["observation_space"])
    return replace(dataset, **kept)


def _load(source: Any, action_space: spaces.Space | None, verbose: int, columns: ColumnNames | None) -> OfflineDataset:
    pandas = sys.modules.get("pandas")  # a DataFrame's owner has imported it
    if pandas is not None and isinstance(source, pandas.DataFrame):
        return from_table(source, action_space, columns)
    if columns is not None:
        if Path(str(source)).suffix.lower() != ".csv":
            raise DatasetError(f"columns={columns}: only CSV files and DataFrames have columns to name, not {source!r}")
        return load_csv(source, action_space, columns)
    if isinstance(source, OfflineDataset):
        return source
    if isinstance(source, ReplayBuffer):
        return from_replay_buffer(source)
    if isinstance(source, Mapping):
        return from_arrays(source, action_space)
    minari = sys.modules.get("minari")  # a MinariDataset's owner has imported it
    if minari is not None and isinstance(source, minari.MinariDataset):
        with _progress(_stamp(Path(source.storage.data_path)), source.spec.dataset_id, verbose):
            return load_minari(source)
    if not isinstance(source, (str, Path)):
        raise DatasetError(
            f"dataset={source!r}: expected an OfflineDataset, an SB3 ReplayBuffer, a MinariDataset, a dict of arrays, "
            f'a DataFrame, a path, "{MINARI_PREFIX}<id>" or "{BUNDLED_PREFIX}<name>", not {type(source).__name__}'
        )
    path, loader = _path_and_loader(str(source))
    stamp = _stamp(path)
    file = (path.resolve(), stamp, CLIP_ACTIONS.get())
    dataset = _last_loaded.get((file, str(action_space)))
    if dataset is None:
        with _progress(stamp, str(source), verbose):
            dataset = loader(path, action_space)
        _last_loaded.clear()
        # Algorithms without an environment take the space from the dataset and load it again with that.
        for space in (action_space, dataset.action_space):
            _last_loaded[file, str(space)] = dataset
    return dataset


def save_dataset(dataset: OfflineDataset, target: str | Path, *, compress: bool = True, data_format: str = "hdf5") -> None:
    """
    Write a dataset to where :func:`load_dataset` reads it back exactly; it is written whole or not at all.

    :param dataset: The dataset.
    :param target: The path of an ``.npz`` file, which is overwritten if it exists, or ``"minari:<id>"`` for Minari's own
        folder.
    :param compress: For an ``.npz`` file: False makes a larger file, which from 1 GiB on is memory-mapped instead of read.
    :param data_format: For Minari: ``"hdf5"`` or ``"arrow"``.
    :raises DatasetError: when the target is unknown, when an id of Minari is malformed or exists, or when the format cannot
        hold the data.
    :raises MissingPackageError: when Minari, or what it needs for the format, is not installed.
    """
    if str(target).startswith(MINARI_PREFIX):
        save_minari(dataset, str(target).removeprefix(MINARI_PREFIX), data_format)
    elif Path(target).suffix == ".npz":
        save_npz(dataset, target, compress)
    else:
        raise DatasetError(f'target={str(target)!r}: what can be written is "x.npz" or "{MINARI_PREFIX}<id>"')


def bundled_dataset_for(env_id: str | None) -> str | None:
    """
    :param env_id: Gymnasium id of an environment.
    :return: ``"bundled:<name>"`` of the dataset that ships for it, or None.
    """
    name = BUNDLED_DATASETS.get(env_id or "")
    return None if name is None else BUNDLED_PREFIX + name


def _path_and_loader(source: str) -> tuple[Path, Loader]:
    if is_sharded(source):
        raise DatasetError(f"dataset={source!r}: never in memory as a whole: pass it to an algorithm as dataset=")
    if source.startswith(MINARI_PREFIX):
        return minari_folder(source), lambda *_: load_minari(source)
    path = Path(source)
    if source.startswith(BUNDLED_PREFIX):
        name = source.removeprefix(BUNDLED_PREFIX)
        if name not in BUNDLED_DATASETS.values():
            raise DatasetError(f"dataset={source!r}: the bundled datasets are {sorted(BUNDLED_DATASETS.values())}")
        path = Path(__file__).parent / "bundled" / f"{name}.npz"
    if path.is_dir():
        for is_format, loader in FOLDER_LOADERS:
            if is_format(path):
                return path, loader
        raise DatasetError(f"dataset={source!r}: unknown kind of folder, expected Minari's, imitation's or .parquet files")
    suffix = path.suffix.lower()
    if suffix not in FILE_LOADERS:
        hint = ""
        if source in BUNDLED_DATASETS.values():
            hint = f'. Did you mean "{BUNDLED_PREFIX}{source}"?'
        elif re.fullmatch(r"([\w-]+/)*[\w-]+-v\d+", source):
            hint = f'. Did you mean "{MINARI_PREFIX}{source}"?'
        raise DatasetError(f"dataset={source!r}: unknown file format, expected one of {sorted(FILE_LOADERS)}{hint}")
    if not path.is_file():
        raise DatasetError(f"dataset={source!r}: no such file")
    return path, FILE_LOADERS[suffix]


def _stamp(path: Path) -> tuple[Any, ...]:
    """Changes whenever the file, or one in the folder, does."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in files if file.exists())


def _progress(stamp: tuple[Any, ...], name: str, verbose: int) -> Any:
    return progress_bar(name, sum(n_bytes for _, _, n_bytes in stamp)) if verbose else nullcontext()
