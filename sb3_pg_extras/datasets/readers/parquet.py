"""Parquet files with one frame per row, as LeRobot writes them -> OfflineDataset."""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets.arrays import joined
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset, as_flags
from sb3_pg_extras.datasets.progress import track
from sb3_pg_extras.datasets.readers.arrow import check_size, is_list_type, is_number_type, to_numpy
from sb3_pg_extras.datasets.reading import reading, warn_of_time_limits
from sb3_pg_extras.datasets.rows import from_rows

EPISODE, ACTION, REWARD, DONE, TRUNCATED = "episode_index", "action", "next.reward", "next.done", "next.truncated"
FRAMES = ("frame_index", "index")
OBSERVATION = "observation"
# Rows read at a time.
BATCH = 1 << 16


def load_parquet(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read frames ``(s_t, a_t, next.reward, next.done)``. The next observation is that of the episode's next frame:
    :func:`~sb3_pg_extras.datasets.rows.from_rows` says what becomes of the last one, which has none.

    LeRobot sets ``next.done`` at time limits too, and ``next.truncated`` with it: such a frame is no terminal state.

    :param path: A file, a folder of files, or a LeRobot dataset with its files in ``data/``. Columns:
        ``observation.state`` (several numeric ``observation.*`` make a Dict observation), ``action``, ``next.reward``,
        ``next.done``, ``episode_index``, ``frame_index`` or ``index``, and optionally ``next.truncated``.
    :param action_space: The environment's: the files hold none.
    :return: The dataset.
    :raises DatasetError: when a file is missing, damaged or invalid, a column is missing, or an episode has gaps.
    """
    path = Path(path)
    with reading(path, "a parquet dataset"):
        shards = parquet_shards(path)
        _check_memory(shards)
        parts: list[tuple[str, dict[str, np.ndarray]]] = []
        for shard in shards:
            with reading(shard, "a parquet file"):
                table = _read(shard, 1 / len(shards))
                # An empty shard's lists have no width.
                if len(table):
                    parts.append((str(shard), to_columns(table)))
        if not parts:
            raise DatasetError("holds no frames")
        return from_frames(joined(parts), action_space)


def parquet_shards(path: Path) -> list[Path]:
    """
    :param path: A file, or a folder.
    :return: The file, or the ``.parquet`` files below the folder; in a LeRobot dataset those of ``data/``, not of ``meta/``.
    """
    root = path / "data" if (path / "data").is_dir() else path
    return [path] if path.is_file() else sorted(file for file in root.rglob("*.parquet") if file.is_file())


def _check_memory(shards: list[Path]) -> None:
    needed = sum(shard.stat().st_size for shard in shards)
    if needed > available_memory():
        raise DatasetError(
            f"needs more than {needed / 1e9:.1f} GB of memory, {available_memory() / 1e9:.1f} are free: "
            'algorithms train on it with dataset="sharded:<path>", which reads it part by part'
        )


def available_memory() -> float:
    """:return: Bytes of available memory; infinity if the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))


def _read(shard: Path, share: float) -> Any:
    """The needed columns of a file, as a ``pyarrow`` table."""
    pa, parquet = require("pyarrow", "parquet"), require("pyarrow.parquet", "parquet")
    file = parquet.ParquetFile(shard)
    schema = file.schema_arrow
    names = needed_columns(schema)
    file_size, n_bytes, batches = shard.stat().st_size, 0, []
    # The file's column statistics are not read: pyarrow 26 crashes if they are damaged.
    for batch in track(file.iter_batches(BATCH, columns=names), -(-file.metadata.num_rows // BATCH), share):
        n_bytes += batch.nbytes
        check_size(n_bytes, file_size)
        batches.append(batch)
    return pa.Table.from_batches(batches, None if batches else pa.schema([schema.field(name) for name in names]))


def needed_columns(schema: Any) -> list[str]:
    """
    :param schema: The ``pyarrow`` schema of a file.
    :return: The names of the columns that make transitions.
    :raises DatasetError: when one is missing, or occurs twice.
    """
    needed = [ACTION, REWARD, DONE, EPISODE, _frame_column(schema.names)]
    observations = [name for name in schema.names if _is_observation(schema.field(name))]
    lacking = [name for name in needed if name not in schema.names] + [f"{OBSERVATION}.state"] * (not observations)
    if lacking:
        raise DatasetError(f"column {lacking[0]!r} is missing or does not hold numbers: the columns are {schema.names}")
    if len(set(schema.names)) != len(schema.names):
        raise DatasetError(f"a column is there twice: {schema.names}")
    return [*needed, *observations, *([TRUNCATED] if TRUNCATED in schema.names else [])]


def _is_observation(field: Any) -> bool:
    """Images and strings are left out: they are not numbers."""
    if field.name != OBSERVATION and not field.name.startswith(f"{OBSERVATION}."):
        return False
    arrow_type = field.type
    while is_list_type(arrow_type):
        arrow_type = arrow_type.value_type
    return is_number_type(arrow_type)


def _frame_column(names: Any) -> str:
    return next((name for name in FRAMES if name in names), FRAMES[0])


def to_columns(table: Any) -> dict[str, np.ndarray]:
    """
    :param table: A ``pyarrow`` table of frames, at least one.
    :return: Its columns; the one that numbers the frames is called ``frame_index``, the flags are bools.
    :raises DatasetError: when a value is missing, not finite, or of the wrong type or shape.
    """
    table.validate(full=True)
    columns = {name: to_numpy(name, table[name]) for name in table.column_names}
    columns[FRAMES[0]] = columns.pop(_frame_column(columns))
    for name in (REWARD, EPISODE, FRAMES[0]):
        column = columns[name]
        if column.size != len(table):
            raise DatasetError(f"{name} has rows of shape {column.shape[1:]}: one value per row is needed")
        if name != REWARD and column.dtype.kind not in "iu":
            raise DatasetError(f"{name} must hold integers, not {column.dtype}")
        columns[name] = column.reshape(-1)
    return columns | {name: as_flags(name, columns[name]) for name in (DONE, TRUNCATED) if name in columns}


def from_frames(columns: dict[str, np.ndarray], action_space: spaces.Space | None) -> OfflineDataset:
    """
    :param columns: Frames in any order, as :func:`to_columns` gives them.
    :param action_space: The environment's action space.
    :return: Their transitions: :func:`~sb3_pg_extras.datasets.rows.from_rows` says what becomes of an episode's last frame.
    :raises DatasetError: when an episode has a gap, or the frames are not a valid dataset.
    """
    if action_space is None:
        raise DatasetError("field 'action_space' is missing: pass it, or the environment, whose space is then used")
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
    truncations = columns.get(TRUNCATED, np.zeros(len(order), bool))
    for name, flags in ((DONE, columns[DONE]), (TRUNCATED, truncations)):
        early = same & flags[:-1]
        if early.any():
            row = int(np.argmax(early))
            raise DatasetError(
                f"{name} is set at {FRAMES[0]} {frame[row]} of episode {episode[row]}, which goes on after it"
            )
    if TRUNCATED not in columns and columns[DONE].any():
        warn_of_time_limits(f"{DONE} without {TRUNCATED}")
    observations = {name.removeprefix(f"{OBSERVATION}."): columns[name] for name in columns if name.startswith(OBSERVATION)}
    fields = {
        "observations": observations if len(observations) > 1 else observations.popitem()[1],
        "actions": columns[ACTION],
        "rewards": columns[REWARD],
        # LeRobot's recorders write done = terminated or truncated.
        "terminations": columns[DONE] & ~truncations,
        "truncations": truncations,
    }
    return from_rows(fields, np.append(np.flatnonzero(~same) + 1, len(order)), action_space)
