"""Parquet files that are larger than memory: read part by part, in random order, during training."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.readers.arrow import check_size
from sb3_pg_extras.datasets.readers.parquet import from_frames, needed_columns, parquet_shards, to_columns
from sb3_pg_extras.datasets.reading import reading

PREFIX = "sharded:"
# A part is as many row groups as make this many bytes, before compression.
PART_BYTES = 1 << 25


def is_sharded(source: Any) -> bool:
    """
    :param source: A source of data.
    :return: Whether it is ``"sharded:<path>"``, which is never in memory as a whole.
    """
    return isinstance(source, str) and source.startswith(PREFIX)


class ShardedParquet:
    """
    Parquet files as :func:`~sb3_pg_extras.datasets.readers.parquet.load_parquet` reads them, but only a part at a time.

    A part is checked like any dataset when its turn comes. An episode that runs from one part into the next is cut there:
    as at the end of a file, the last frame before the cut is left out, since its next observation is not there.

    :param path: A file, a folder of files, or a LeRobot dataset, with or without the prefix ``sharded:``.
    :param action_space: The environment's: the files hold none.
    :raises DatasetError: when a file is missing or damaged, a column is missing, or the first part is not a valid dataset.
    """

    def __init__(self, path: str | Path, action_space: spaces.Space | None = None) -> None:
        self.path = Path(str(path).removeprefix(PREFIX))
        self._action_space = action_space
        with reading(self.path, "a parquet dataset"):
            shards = parquet_shards(self.path)
            if not shards:
                raise DatasetError("no .parquet file in it")
            files = require("pyarrow.dataset", "parquet").dataset([str(shard) for shard in shards], format="parquet")
            self._names = needed_columns(files.schema)
            groups = [group for file in files.get_fragments() for group in file.split_by_row_group()]
            sizes = np.array([group.row_groups[0].total_byte_size for group in groups])
            check_size(int(sizes.sum()), sum(shard.stat().st_size for shard in shards))
            number = np.cumsum(sizes) // PART_BYTES
            self._parts = [[groups[i] for i in np.flatnonzero(number == n)] for n in np.unique(number)]
            self._n_frames = sum(group.row_groups[0].num_rows for group in groups)
        self.first = self.part(0)

    def __len__(self) -> int:
        """:return: The number of frames in all files."""
        return self._n_frames

    @property
    def n_parts(self) -> int:
        """:return: The number of parts."""
        return len(self._parts)

    def part(self, index: int) -> OfflineDataset:
        """
        :param index: Number of the part.
        :return: Its transitions.
        :raises DatasetError: when it cannot be read, or is not a valid dataset.
        """
        with reading(self.path, "a parquet dataset"):
            tables = [group.to_table(columns=self._names) for group in self._parts[index]]
            return from_frames(to_columns(require("pyarrow", "parquet").concat_tables(tables)), self._action_space)

    def indices(self, seed: int | None) -> Iterator[int]:
        """
        :param seed: Seed of the order.
        :return: An endless sequence of part numbers: all of them in random order, then all again in another order.
        """
        generator: Any = np.random.default_rng(seed)
        while True:
            yield from generator.permutation(self.n_parts).tolist()
