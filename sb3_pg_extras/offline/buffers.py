"""Datasets -> torch batches."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.datasets.layout import check_spaces, policy_layout, scale_actions
from sb3_pg_extras.offline.normalization import is_vector_space, running_returns, set_moments
from sb3_pg_extras.offline.transition_format import RecordFormat

# While records are made, this many rows of the dataset are copied at a time.
ROWS_PACKED_AT_ONCE = 1 << 14


class OfflineReplayBuffer(ReplayBuffer):
    """
    A dataset as a full SB3 replay buffer of one environment: Box actions scaled to [-1, 1] and clipped to
    +-(1 - 1e-6), images in the policy's layout, ``dones`` only where the next state is terminal, so that truncation
    bootstraps.

    Each transition is one record of bytes, on the device: a batch is one gather there. A memory-mapped dataset stays in its
    file instead, and only a batch's own records are made.

    :param dataset: The dataset.
    :param observation_space: The model's observation space (images channel first).
    :param action_space: The model's action space.
    :param device: PyTorch device of the records and the batches.
    :param n_steps: Steps of the return: ``rewards`` are ``sum_{j<n} gamma^j r_{t+j}``, the next observation is that of the
        last step, ``discounts`` what its value counts, as in SB3's ``NStepReplayBuffer``. An episode's end cuts it short.
    :param gamma: Discount factor of the n-step return.
    :param normalize_observations: Whether to subtract the dataset's mean and divide by its standard deviation, as
        ``VecNormalize`` does; ``observation_rms`` holds them.
    :param normalize_rewards: Whether to divide by the standard deviation of the discounted return, as ``VecNormalize`` does;
        ``return_rms`` holds it.
    :raises DatasetError: when the dataset's spaces differ from these.
    :raises ValueError: for ``n_steps`` below 1, and for observations that are no vectors and cannot be normalised.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_steps: int = 1,
        gamma: float = 0.99,
        normalize_observations: bool = False,
        normalize_rewards: bool = False,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps}: must be at least 1")
        if normalize_observations and not is_vector_space(observation_space):
            raise ValueError(
                f"normalize_observations=True needs vectors, not {observation_space}: wrap the environment in VecNormalize"
            )
        # Past ReplayBuffer.__init__: it would allocate arrays that the dataset already has.
        BaseBuffer.__init__(self, len(dataset), observation_space, action_space, device, n_envs=1)
        check_spaces(dataset, observation_space, action_space)
        self.full = True
        self.optimize_memory_usage = False
        self.handle_timeout_termination = True
        self.dataset = dataset
        self.n_steps = n_steps
        self.observation_rms = RunningMeanStd(shape=observation_space.shape or ()) if normalize_observations else None
        self.return_rms = RunningMeanStd(shape=()) if normalize_rewards else None
        if self.observation_rms is not None:
            set_moments(self.observation_rms, dataset.observations)  # type: ignore[arg-type]
        if self.return_rms is not None:
            set_moments(self.return_rms, running_returns(dataset, gamma))
        self.format = RecordFormat(
            dataset, observation_space, action_space, n_steps, gamma, self.observation_rms, self.return_rms
        )
        self._records = None if is_mapped(dataset) else self._pack_all(len(dataset))
        self._share_memory()

    def _pack_all(self, n_rows: int) -> th.Tensor:
        records = th.empty((n_rows, self.format.dtype.itemsize), dtype=th.uint8, device=self.device)
        for start in range(0, n_rows, ROWS_PACKED_AT_ONCE):
            rows = np.arange(start, min(start + ROWS_PACKED_AT_ONCE, n_rows))
            records[start : start + len(rows)] = self.format.pack(self.dataset, rows).to(self.device)
        return records

    def _share_memory(self) -> None:
        """Observations that stand in the records as they do in the dataset need not be in memory twice."""
        if self._records is None or self._records.device.type != "cpu":
            return
        records = self._records.numpy().view(self.format.dtype)[:, 0]
        for name in ("observations", "next_observations"):
            source = getattr(self.dataset, name)
            if self.format.holds_unchanged(name, source):
                self.dataset._move_into(name, records[name])
        if self.n_steps == 1 and self.return_rms is None and self.dataset.rewards.dtype == np.float32:
            self.dataset._move_into("rewards", records["rewards"][:, 0])

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, generator: th.Generator | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        Draw transitions uniformly, with replacement.

        :param batch_size: Number of transitions, B.
        :param env: Normalises observations and rewards, if given.
        :param generator: Source of the draw; PyTorch's global one by default.
        :return: The batch; ``actions`` (B, action_dim) in [-1, 1], ``rewards`` and ``dones`` (B, 1); ``dones`` is 1 only
            where s' is terminal.
        """
        return self.get(self.sample_indices(batch_size, generator), env)

    def sample_indices(self, batch_size: int, generator: th.Generator | None = None) -> th.Tensor:
        """
        :param batch_size: Number of rows to draw.
        :param generator: Source of the draw; PyTorch's global one by default.
        :return: Row numbers, shape (B,), on the buffer's device.
        """
        device = th.device("cpu") if generator is None else generator.device
        return th.randint(self.size(), (batch_size,), generator=generator, device=device).to(self.device)

    def get(
        self, indices: th.Tensor | np.ndarray, env: VecNormalize | None = None
    ) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param indices: Row numbers, shape (B,).
        :param env: Normalises observations and rewards, if given.
        :return: Those transitions, as :meth:`sample` returns them.
        """
        indices = th.as_tensor(indices, device=self.device)
        if self._records is None:
            records = self.format.pack(self.dataset, indices.cpu().numpy()).to(self.device)
        else:
            records = self._records.index_select(0, indices)
        columns = self.format.unpack(records)
        if env is not None:
            for name in ("observations", "next_observations"):
                columns[name] = self._to_device(self._normalize_obs(_to_numpy(columns[name]), env))
            columns["rewards"] = self._to_device(self._normalize_reward(_to_numpy(columns["rewards"]), env))
        return self.format.samples(columns)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        return self.get(batch_inds, env)

    def _to_device(self, values: Any) -> Any:
        return {k: self.to_torch(v) for k, v in values.items()} if isinstance(values, dict) else self.to_torch(values)

    def whole_dataset(self) -> OfflineDataset:
        """
        :return: The dataset, to be written or to be trained on elsewhere.
        """
        return self.dataset

    def add(self, *args: Any, **kwargs: Any) -> None:
        """:raises RuntimeError: always: a dataset does not grow."""
        raise RuntimeError("A dataset does not grow. For a replay buffer that does, see BEAR.to_sac(env, keep_dataset=True)")

    # SB3's names for what the dataset holds, with SB3's axis of environments.

    @property
    def observations(self) -> Any:  # type: ignore[override]
        """:return: ``s`` in the policy's layout, shape (N, 1, ...)."""
        return _one_env(policy_layout(self.dataset.observations, self.observation_space))

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        """:return: ``s'`` likewise."""
        return _one_env(policy_layout(self.dataset.next_observations, self.observation_space))

    @property
    def actions(self) -> np.ndarray:  # type: ignore[override]
        """:return: Scaled actions, shape (N, 1, action_dim)."""
        return _one_env(scale_actions(self.dataset.actions, self.action_space).reshape(len(self.dataset), self.action_dim))

    @property
    def rewards(self) -> np.ndarray:  # type: ignore[override]
        """:return: shape (N, 1)."""
        return _one_env(self.dataset.rewards)

    @property
    def dones(self) -> np.ndarray:  # type: ignore[override]
        """:return: 1 where an episode terminated or was truncated, shape (N, 1)."""
        return _one_env((self.dataset.terminations | self.dataset.truncations).astype(np.float32))

    @property
    def timeouts(self) -> np.ndarray:  # type: ignore[override]
        """:return: 1 where it was truncated only, shape (N, 1)."""
        return _one_env((self.dataset.truncations & ~self.dataset.terminations).astype(np.float32))


def is_mapped(dataset: OfflineDataset) -> bool:
    """
    :param dataset: A dataset.
    :return: Whether any of its arrays is memory-mapped.
    """
    return any(isinstance(array, np.memmap) for name in ARRAY_FIELDS for array in _arrays(getattr(dataset, name)))


def _arrays(value: Any) -> list[np.ndarray]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _to_numpy(values: Any) -> Any:
    return {key: value.cpu().numpy() for key, value in values.items()} if isinstance(values, dict) else values.cpu().numpy()


def _one_env(values: Any) -> Any:
    """(N, ...) -> (N, 1, ...), SB3's axis of environments."""
    if isinstance(values, dict):
        return {key: _one_env(value) for key, value in values.items()}
    return values[:, np.newaxis]
