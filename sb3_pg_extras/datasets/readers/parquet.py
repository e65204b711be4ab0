"""Parquet files with one frame per row, as LeRobot writes them -> OfflineDataset."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset, reading
from sb3_pg_extras.datasets.episodes import Episode, from_episodes
from sb3_pg_extras.datasets.optional import require
from sb3_pg_extras.datasets.progress import track
from sb3_pg_extras.datasets.readers.arrow import check_size, is_list, is_number, to_numpy

EPISODE, ACTION, REWARD, DONE, TRUNCATED = "episode_index", "action", "next.reward", "next.done", "next.truncated"
FRAMES = ("frame_index", "index")
OBSERVATION = "observation"
# Rows read at a time.
BATCH = 1 << 16


def load_parquet(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read frames ``(s_t, a_t, next.reward, next.done)``. The next observation is that of the episode's next frame.

    The last frame of an episode has none: where ``next.done`` is set nothing follows it, and its own observation stands
    in; elsewhere that frame is left out, and the one before it is truncated if the frame was; if not, the episode ends with
    neither flag.

    :param path: A file, a folder of files, or a LeRobot dataset with its files in ``data/``. Columns:
        ``observation.state`` (several numeric ``observation.*`` make a Dict observation), ``action``, ``next.reward``,
        ``next.done``, ``episode_index``, ``frame_index`` or ``index``, and optionally ``next.truncated``.
    :param action_space: The environment's: the files hold none.
    :return: The dataset.
    :raises DatasetError: when a file is missing, damaged or invalid, a column is missing, or an episode has gaps.
    """
    path = Path(path)
    with reading(path, "a parquet dataset"):
        shards = [path] if path.is_file() else parquet_shards(path)
        if not shards:
            raise DatasetError("no .parquet file in it")
        _check_memory(shards)
        tables = {
            shard: _read(shard, "" if shard == path else f"{shard.relative_to(path)}: ", 1 / len(shards)) for shard in shards
        }
        return from_episodes(episodes_of(_joined(path, tables)), action_space)


def parquet_shards(folder: Path) -> list[Path]:
    """
    :param folder: A folder.
    :return: The ``.parquet`` files below it; in a LeRobot dataset those of ``data/``, not of ``meta/``.
    """
    root = folder / "data" if (folder / "data").is_dir() else folder
    return sorted(file for file in root.rglob("*.parquet") if file.is_file())


def _check_memory(shards: list[Path]) -> None:
    needed = sum(shard.stat().st_size for shard in shards)
    if needed > available_memory():
        raise DatasetError(
            f"needs more than {needed / 1e9:.1f} GB of memory, {available_memory() / 1e9:.1f} are free: "
            'BEAR trains on it with dataset="stream:<path>", which reads it part by part'
        )


def available_memory() -> float:
    """:return: Bytes of memory that can be had now; infinity where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _read(shard: Path, prefix: str, share: float) -> dict[str, np.ndarray]:
    pa, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    try:
        file = parquet.ParquetFile(shard)
        schema = file.schema_arrow
        names = needed_columns(schema, prefix)
        file_size, n_bytes, batches = shard.stat().st_size, 0, []
        # The file's own figures for its columns are not asked for: where they are damaged, pyarrow 26 ends the process.
        for batch in track(file.iter_batches(BATCH, columns=names), -(-file.metadata.num_rows // BATCH), share):
            n_bytes += batch.nbytes
            check_size(n_bytes, file_size)
            batches.append(batch)
        table = pa.Table.from_batches(batches, None if batches else pa.schema([schema.field(name) for name in names]))
        return to_columns(table, prefix)
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(f"{prefix}cannot be read as parquet ({type(error).__name__}: {error})") from error


def needed_columns(schema: Any, prefix: str = "") -> list[str]:
    """
    :param schema: The ``pyarrow`` schema of a file.
    :param prefix: Stands at the beginning of messages.
    :return: The names of the columns that make transitions.
    :raises DatasetError: when one is missing, or there twice.
    """
    needed = [ACTION, REWARD, DONE, EPISODE, _frame_column(schema.names)]
    observations = [name for name in schema.names if _is_observation(schema.field(name))]
    for name in needed if observations else [f"{OBSERVATION}.state"]:
        if name not in schema.names or not observations:
            raise DatasetError(f"{prefix}column {name!r} is missing or holds no numbers: the columns are {schema.names}")
    if len(set(schema.names)) != len(schema.names):
        raise DatasetError(f"{prefix}a column stands there twice: {schema.names}")
    return [*needed, *observations, *([TRUNCATED] if TRUNCATED in schema.names else [])]


def to_columns(table: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """
    :param table: A ``pyarrow`` table of frames.
    :param prefix: Stands at the beginning of messages.
    :return: Its columns; the one that numbers the frames is called ``frame_index``.
    :raises DatasetError: when a value is missing, not finite, or of the wrong type or shape.
    """
    table.validate(full=True)
    columns = {name: to_numpy(f"{prefix}{name}", table[name]) for name in table.column_names}
    frame_column = _frame_column(columns)
    for name in columns.keys() & {REWARD, DONE, EPISODE, TRUNCATED, frame_column}:
        columns[name] = _one_per_row(f"{prefix}{name}", columns[name])
    for name in (EPISODE, frame_column):
        if columns[name].dtype.kind not in "iu":
            raise DatasetError(f"{prefix}{name} must hold whole numbers, not {columns[name].dtype}")
    return columns | {FRAMES[0]: columns.pop(frame_column)}


def _frame_column(names: Any) -> str:
    return next((name for name in FRAMES if name in names), FRAMES[0])


def _joined(path: Path, tables: dict[Path, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    # A shard may be empty: its lists have no width then.
    tables = {shard: table for shard, table in tables.items() if len(table[EPISODE])}
    if not tables:
        raise DatasetError("holds no frames")
    first = next(iter(tables.values()))
    for shard, table in tables.items():
        if table.keys() != first.keys():
            raise DatasetError(f"{shard.relative_to(path)} has the columns {sorted(table)}, the first file {sorted(first)}")
        for name, array in table.items():
            if array.shape[1:] != first[name].shape[1:]:
                raise DatasetError(
                    f"{shard.relative_to(path)}: {name} has rows of shape {array.shape[1:]}, "
                    f"but {first[name].shape[1:]} in the first file"
                )
    return {name: np.concatenate([table[name] for table in tables.values()]) for name in first}


def _is_observation(field: Any) -> bool:
    """Images and texts, in structs and strings, are no numbers: they are left out."""
    if field.name != OBSERVATION and not field.name.startswith(f"{OBSERVATION}."):
        return False
    arrow_type = field.type
    while is_list(arrow_type):
        arrow_type = arrow_type.value_type
    return is_number(arrow_type)


def _one_per_row(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim > 2 or array.shape[1:] not in ((), (1,)):
        raise DatasetError(f"{name} has rows of shape {array.shape[1:]}: one value per row is needed")
    return array.reshape(len(array))


def episodes_of(columns: dict[str, np.ndarray]) -> Iterator[Episode]:
    """
    :param columns: What :func:`to_columns` gave.
    :return: The episodes among its frames.
    :raises DatasetError: when an episode has a gap.
    """
    order = np.lexsort((columns[FRAMES[0]], columns[EPISODE]))
    columns = {name: array[order] for name, array in columns.items()}
    episode, frame = columns[EPISODE].astype(np.int64), columns[FRAMES[0]].astype(np.int64)
    same = episode[1:] == episode[:-1]
    jump = same & (np.diff(frame) != 1)
    if jump.any():
        row = int(np.argmax(jump))
        raise DatasetError(
            f"{FRAMES[0]} goes from {frame[row]} to {frame[row + 1]} in episode {episode[row]}: "
            "a frame is missing, or there twice"
        )
    truncated = columns.get(TRUNCATED, np.zeros(len(episode), dtype=bool))
    names = sorted(name for name in columns if name.startswith(OBSERVATION))
    for start, end in zip(*_bounds(same), strict=True):
        terminal = bool(columns[DONE][end - 1])
        stop = end if terminal else end - 1
        if stop < end and truncated[stop]:
            truncated[max(start, stop - 1)] = True
        rows = np.append(np.arange(start, end), [end - 1] if terminal else []).astype(np.int64)
        observations = {name.removeprefix(f"{OBSERVATION}."): columns[name][rows] for name in names}
        yield Episode(
            f"episode {episode[start]}",
            observations if len(names) > 1 else observations.popitem()[1],
            columns[ACTION][start:stop],
            columns[REWARD][start:stop],
            columns[DONE][start:stop],
            truncated[start:stop],
        )


def _bounds(same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row continues the episode of the row before -> the first row of each episode, and the row after it."""
    ends = np.append(np.flatnonzero(~same), len(same)) + 1
    return np.append(0, ends[:-1]), ends
