"""A replay buffer for data that does not fit into memory."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.common.dicts import arrays_of, map_arrays
from sb3_pg_extras.datasets import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.sharded import ShardedParquet
from sb3_pg_extras.offline.buffers import Columns, OfflineReplayBuffer, OfflineReplayBufferSamples


class ShardedReplayBuffer(OfflineReplayBuffer):
    """
    A replay buffer that holds some parts of a sharded dataset at a time. Batches are drawn uniformly from these; as many
    new transitions come in as are drawn, and take the place of the oldest, so that each is drawn once per pass on average.

    :param shards: The sharded dataset.
    :param observation_space: The model's observation space.
    :param action_space: The model's action space.
    :param device: PyTorch device of the transitions and the batches.
    :param seed: Seed of the order of the parts.
    :param max_bytes: Bytes of transitions to hold.
    :param position: What :meth:`position` returned, to resume from there.
    :param kwargs: ``n_steps``, ``gamma`` and ``normalize_rewards`` of :class:`OfflineReplayBuffer`; statistics are those of
        the first part.
    """

    def __init__(
        self,
        shards: ShardedParquet,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        seed: int | None = None,
        max_bytes: int = 1 << 29,
        position: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(shards.first, observation_space, action_space, device, **kwargs)
        self.shards = shards
        if position is not None:
            seed = position["seed"]
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._indices = shards.indices(self._seed)
        example = self._gather(self.columns, th.zeros(1, dtype=th.int64, device=self.device))
        row_bytes = sum(tensor.nbytes for tensor in _tensors(example))
        # One row more than there are: a buffer that holds the whole dataset is never full, and keeps it.
        n_rows = max(len(shards.first), min(len(shards) + 1, max_bytes // row_bytes))
        fields = (map_arrays(lambda t: t.new_empty((n_rows, *t.shape[1:])), value) for value in example[:-1])
        self.columns = Columns._make([*fields, None])
        self.pos, self.buffer_size, self.full = 0, n_rows, False
        # Transitions in the newest part, and those drawn since.
        self._n_newest = self._n_drawn = 0
        # Parts so far; of each that is still held: its number in this order, its first row in the buffer, its rows.
        self._n_parts = 0
        self._parts_held: list[tuple[int, int, int]] = []
        if position is not None:
            self._go_to(position)
        # One thread reads ahead.
        self._reader = ThreadPoolExecutor(1)
        self._next_part = self._reader.submit(self._read_next)
        for _ in range(shards.n_parts if position is None else 0):
            if not self.full:
                self._take_in()

    def whole_dataset(self) -> OfflineDataset:
        """:raises DatasetError: always: a sharded dataset does not fit into memory."""
        raise DatasetError(f"{self.shards.path}: a sharded dataset is never in memory as a whole, as this would need")

    def get(self, indices: th.Tensor | np.ndarray, env: VecNormalize | None = None) -> OfflineReplayBufferSamples:
        """As :meth:`OfflineReplayBuffer.get`; rows are numbered as they are held now."""
        batch = super().get(indices, env)
        self._n_drawn += len(indices)
        # A buffer that holds the whole dataset is never full, and nothing new comes.
        while self.full and self._n_drawn >= self._n_newest:
            self._n_drawn -= self._n_newest
            self._take_in()
        return batch

    def position(self) -> dict[str, Any]:
        """:return: Which transitions are held, and which come next: what a saved model needs to resume."""
        names = ("pos", "full", "_n_newest", "_n_drawn", "_n_parts")
        # A copy: training goes on.
        return {"seed": self._seed, "_parts_held": list(self._parts_held)} | {name: getattr(self, name) for name in names}

    def _go_to(self, position: dict[str, Any]) -> None:
        order = [next(self._indices) for _ in range(position["_n_parts"])]
        for number, start, _ in position["_parts_held"]:
            self._put(self._read(order[number]), start)
        for name, value in position.items():
            if name != "seed":
                setattr(self, name, value)
        self._parts_held = list(self._parts_held)

    def _read_next(self) -> OfflineReplayBufferSamples:
        return self._read(next(self._indices))

    def _read(self, part: int) -> OfflineReplayBufferSamples:
        columns = self.columns_of(self.shards.part(part))
        return self._gather(columns, th.arange(len(columns.rewards), device=self.device))

    def _put(self, part: OfflineReplayBufferSamples, start: int) -> int:
        """:return: The number of transitions put into the buffer, from row ``start`` on and round its end."""
        n_rows = min(len(part.rewards), self.buffer_size)
        places = (start + th.arange(n_rows, device=self.device)) % self.buffer_size
        for held, new in zip(_tensors(self.columns), _tensors(part[:-1]), strict=True):
            held[places] = new[:n_rows]
        return n_rows

    def _take_in(self) -> None:
        part = self._next_part.result()
        self._next_part = self._reader.submit(self._read_next)
        n_rows = self._put(part, self.pos)
        self._parts_held.append((self._n_parts, self.pos, n_rows))
        self._n_parts += 1
        while sum(n for _, _, n in self._parts_held[1:]) >= self.buffer_size:
            del self._parts_held[0]  # fully overwritten
        self.full = self.full or self.pos + n_rows >= self.buffer_size
        self.pos = (self.pos + n_rows) % self.buffer_size
        self._n_newest = n_rows


def _tensors(fields: tuple[Any, ...]) -> list[th.Tensor]:
    return [tensor for field in fields if field is not None for tensor in arrays_of(field)]
