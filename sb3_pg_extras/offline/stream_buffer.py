"""A replay buffer for data that does not fit into the memory."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.datasets import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.layout import check_spaces
from sb3_pg_extras.datasets.readers.parquet_stream import ParquetStream
from sb3_pg_extras.offline.buffers import OfflineReplayBuffer


class StreamReplayBuffer(OfflineReplayBuffer):
    """
    A replay buffer that holds some parts of a stream at a time. Batches are drawn uniformly from these; as many new
    transitions come in as are drawn, and take the place of the oldest, so that each is drawn once per pass on average.

    :param stream: The stream.
    :param observation_space: The model's observation space.
    :param action_space: The model's action space.
    :param device: PyTorch device of the records and the batches.
    :param seed: Seed of the order of the parts.
    :param max_bytes: Bytes of records to hold.
    :param kwargs: ``n_steps``, ``gamma`` and the normalisation of :class:`OfflineReplayBuffer`; its statistics are those of
        the first part.
    """

    def __init__(
        self,
        stream: ParquetStream,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        seed: int | None = None,
        max_bytes: int = 1 << 29,
        **kwargs: Any,
    ) -> None:
        super().__init__(stream.first, observation_space, action_space, device, **kwargs)
        self.stream = stream
        self._indices = stream.indices(seed)
        # One row more than there are: a stream that fits leaves it empty, is never full, and stays.
        n_rows = max(len(stream.first), min(len(stream) + 1, max_bytes // self.format.dtype.itemsize))
        self._records = th.empty((n_rows, self.format.dtype.itemsize), dtype=th.uint8, device=self.device)
        # What is read ahead meanwhile, by one thread.
        self._reader = ThreadPoolExecutor(1)
        self._next_part = self._reader.submit(self._read)
        self.pos, self.buffer_size, self.full = 0, n_rows, False
        # Transitions in the part that came last, and those drawn since.
        self._n_newest = self._n_drawn = 0
        for _ in range(stream.n_parts):
            if not self.full:
                self._take_in()

    def whole_dataset(self) -> OfflineDataset:
        """:raises DatasetError: always: a stream does not fit into the memory."""
        raise DatasetError(f"{self.stream.path}: a stream is never in memory as a whole, as this would need")

    def size(self) -> int:
        """:return: The number of transitions that are held now."""
        return self.buffer_size if self.full else self.pos

    def get(
        self, indices: th.Tensor | np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """As :meth:`OfflineReplayBuffer.get`; rows are numbered as they are held now."""
        batch = super().get(indices, env)
        self._n_drawn += len(indices)
        # Where all of the stream is held, it is never full, and nothing new comes.
        while self.full and self._n_drawn >= self._n_newest:
            self._n_drawn -= self._n_newest
            self._take_in()
        return batch

    def _read(self) -> th.Tensor:
        part = self.stream.part(next(self._indices))
        check_spaces(part, self.observation_space, self.action_space)
        return self.format.pack(part, np.arange(len(part)))

    def _take_in(self) -> None:
        assert self._records is not None
        records = self._next_part.result()[: self.buffer_size]
        self._next_part = self._reader.submit(self._read)
        places = (self.pos + th.arange(len(records))) % self.buffer_size
        self._records[places.to(self.device)] = records.to(self.device)
        self.full = self.full or self.pos + len(records) >= self.buffer_size
        self.pos = (self.pos + len(records)) % self.buffer_size
        self._n_newest = len(records)
