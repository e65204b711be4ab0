"""Transitions of a dataset -> records of bytes, one per transition, so that a batch is one gather."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import maybe_transpose
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.datasets.layout import scale_actions
from sb3_pg_extras.datasets.mapped import take
from sb3_pg_extras.offline.normalization import CLIP, EPSILON, normalized

SEPARATOR = "/"


class RecordFormat:
    """
    What a transition looks like to the networks: actions scaled to [-1, 1], images channel first, n-step returns,
    normalised or not; and how that lies in a record.

    :param dataset: A dataset of the format's kind.
    :param observation_space: The model's observation space (images channel first).
    :param action_space: The model's action space.
    :param n_steps: Steps of the return; it stops at an episode's end.
    :param gamma: Discount factor of the n-step return.
    :param observation_rms: Mean and variance to normalise observations with, or None.
    :param return_rms: Variance to normalise rewards with, or None.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        n_steps: int = 1,
        gamma: float = 0.99,
        observation_rms: RunningMeanStd | None = None,
        return_rms: RunningMeanStd | None = None,
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.n_steps, self.gamma = n_steps, gamma
        self.observation_rms, self.return_rms = observation_rms, return_rms
        example = self._columns(dataset, np.zeros(1, dtype=np.int64))
        # Aligned, and of a size that is a multiple of every field's: PyTorch views the bytes as numbers in place.
        self.dtype = np.dtype([(name, column.dtype, column.shape[1:]) for name, column in example.items()], align=True)

    def holds_unchanged(self, name: str, source: Any) -> bool:
        """
        :param name: ``"observations"`` or ``"next_observations"``.
        :param source: That of the dataset.
        :return: Whether row i of the one is row i of the other, number for number; not asked for dicts, where it is False.
        """
        if isinstance(source, dict) or self.observation_rms is not None or (name != "observations" and self.n_steps > 1):
            return False
        field = self.dtype[name]
        return field.base == source.dtype and field.shape == source.shape[1:]

    def pack(self, dataset: OfflineDataset, rows: np.ndarray) -> th.Tensor:
        """
        :param dataset: The dataset.
        :param rows: Row numbers, shape (B,).
        :return: Their records, bytes of shape (B, record size).
        """
        records = np.zeros(len(rows), self.dtype)
        for name, column in self._columns(dataset, rows).items():
            records[name] = column
        return th.from_numpy(records.view(np.uint8).reshape(len(rows), self.dtype.itemsize))

    def unpack(self, records: th.Tensor) -> dict[str, Any]:
        """
        :param records: Bytes of shape (B, record size).
        :return: The fields of SB3's ``ReplayBufferSamples``, as views of the records.
        """
        columns: dict[str, Any] = {}
        assert self.dtype.fields is not None
        for name, (dtype, offset, *_) in self.dtype.fields.items():
            field = records[:, offset : offset + dtype.itemsize].view(_torch_type(dtype.base))
            field = field.reshape(len(records), *dtype.shape)
            name, _, key = name.partition(SEPARATOR)
            if key:
                columns.setdefault(name, {})[key] = field
            else:
                columns[name] = field
        return columns

    def samples(self, columns: dict[str, Any]) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param columns: What :meth:`unpack` gave.
        :return: The same as SB3's batch.
        """
        samples: Any = DictReplayBufferSamples if isinstance(self.observation_space, spaces.Dict) else ReplayBufferSamples
        return samples(**columns)

    def _columns(self, dataset: OfflineDataset, rows: np.ndarray) -> dict[str, np.ndarray]:
        last, columns = rows, {}
        if self.n_steps > 1:
            columns["discounts"], columns["rewards"], last = self._n_step_returns(dataset, rows)
        else:
            columns["rewards"] = self._normalized_rewards(take(dataset.rewards, rows))
        # No done is set where the next state's value counts: at time limits, and where the data just stops.
        columns["dones"] = take(dataset.terminations, last)
        columns = {name: column.astype(np.float32).reshape(-1, 1) for name, column in columns.items()}
        actions = take(dataset.actions, rows)
        columns["actions"] = scale_actions(actions, self.action_space).reshape(len(rows), -1)
        for name, source, where in (
            ("observations", dataset.observations, rows),
            ("next_observations", dataset.next_observations, last),
        ):
            if isinstance(self.observation_space, spaces.Dict):
                assert isinstance(source, dict)
                for key, space in self.observation_space.spaces.items():
                    columns[f"{name}{SEPARATOR}{key}"] = _stored(maybe_transpose(take(source[key], where), space))
            else:
                assert isinstance(source, np.ndarray)
                observations = _stored(maybe_transpose(take(source, where), self.observation_space))
                if self.observation_rms is not None:
                    observations = normalized(observations, self.observation_rms)
                columns[name] = observations
        return columns

    def _n_step_returns(self, dataset: OfflineDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``gamma^k``, ``sum_{j<k} gamma^j r_{t+j}`` and the last row ``t+k-1``; k is n, or less at an episode's end."""
        ends = dataset.episode_ends
        n_steps = np.minimum(ends[np.searchsorted(ends, rows, side="right")] - rows, self.n_steps)
        returns = np.zeros(len(rows))
        for step in range(self.n_steps):
            inside = np.flatnonzero(step < n_steps)
            returns[inside] += self.gamma**step * self._normalized_rewards(take(dataset.rewards, rows[inside] + step))
        return self.gamma**n_steps, returns, rows + n_steps - 1

    def _normalized_rewards(self, rewards: np.ndarray) -> np.ndarray:
        if self.return_rms is None:
            return rewards
        return np.clip(rewards / np.sqrt(self.return_rms.var + EPSILON), -CLIP, CLIP)


def _stored(array: np.ndarray) -> np.ndarray:
    """Floats in single precision, bytes as they are, other integers in a type that PyTorch computes with."""
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    return array if array.dtype in (np.uint8, np.int8, np.int32, np.int64) else array.astype(np.int64)


def _torch_type(dtype: np.dtype) -> th.dtype:
    return th.from_numpy(np.empty(0, dtype)).dtype
