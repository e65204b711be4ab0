"""Datasets -> torch batches."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer, RolloutBuffer
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.datasets import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.datasets.parquet_stream import ParquetStream
from sb3_pg_extras.datasets.sb3 import policy_layout, scale_actions
from sb3_pg_extras.records import RecordFormat, is_vector_space, set_moments

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


def running_returns(dataset: OfflineDataset, gamma: float) -> np.ndarray:
    """
    :param dataset: A dataset.
    :param gamma: Discount factor.
    :return: For each step the discounted sum of its episode's rewards so far, as ``VecNormalize.step_wait`` keeps it to
        normalise rewards; shape (N,), float64.
    """
    # The same sum as a return-to-go, backwards.
    n_rows = len(dataset)
    starts = np.concatenate([[0], dataset.episode_ends[:-1]])
    return discounted_returns(dataset.rewards[::-1], (n_rows - starts)[::-1], gamma)[::-1]


def check_spaces(dataset: OfflineDataset, observation_space: spaces.Space, action_space: spaces.Space) -> None:
    """
    :param dataset: The dataset.
    :param observation_space: The model's observation space; its bounds may differ from the data's, its shapes may not.
    :param action_space: The model's action space.
    :raises DatasetError: when the dataset's spaces differ from these.
    """
    if not _same_layout(dataset.observation_space, observation_space):
        raise DatasetError(
            f"observation_space of the dataset is {dataset.observation_space}, of the environment {observation_space}"
        )
    ours, theirs = dataset.action_space, action_space
    same = ours.shape == theirs.shape and type(ours) is type(theirs)
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        same = same and np.allclose(ours.low, theirs.low) and np.allclose(ours.high, theirs.high)
    elif same:
        same = ours == theirs
    if not same:
        raise DatasetError(f"action_space of the dataset is {ours}, of the environment {theirs}")


def has_spaces(dataset: OfflineDataset, observation_space: spaces.Space, action_space: spaces.Space) -> bool:
    """
    :param dataset: The dataset.
    :param observation_space: The model's observation space.
    :param action_space: The model's action space.
    :return: Whether the dataset's are these, as :func:`check_spaces` sees it.
    """
    try:
        check_spaces(dataset, observation_space, action_space)
    except DatasetError:
        return False
    return True


def _same_layout(ours: spaces.Space, theirs: spaces.Space) -> bool:
    if isinstance(ours, spaces.Dict) and isinstance(theirs, spaces.Dict):
        return set(ours.spaces) == set(theirs.spaces) and all(_same_layout(ours[key], theirs[key]) for key in ours.spaces)
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        transposed = is_image_space(theirs) and len(ours.shape) == 3 and (ours.shape[2], *ours.shape[:2]) == theirs.shape
        return ours.shape == theirs.shape or transposed
    return ours == theirs


def _one_env(values: Any) -> Any:
    """(N, ...) -> (N, 1, ...), SB3's axis of environments."""
    if isinstance(values, dict):
        return {key: _one_env(value) for key, value in values.items()}
    return values[:, np.newaxis]


class EpisodeRolloutSamples(NamedTuple):
    """
    The N steps of whole episodes, one episode after the other.

    ``observations`` and ``actions``, shape (N, ...); ``returns_to_go``, the discounted return from each step on, (N,);
    ``episode_returns``, that of the whole episode the step belongs to, (N,); ``timesteps``, its position t in it, (N,).
    """

    observations: Any
    actions: th.Tensor
    returns_to_go: th.Tensor
    episode_returns: th.Tensor
    timesteps: th.Tensor


class EpisodeRolloutBuffer(RolloutBuffer):
    """
    Rollout buffer of whole episodes. It grows with the episodes, so its ``buffer_size`` means nothing; an environment
    that has no part in the batch any more is stepped along with the others, and left out by ``active``.

    :param buffer_size: Ignored.
    :param observation_space: Observation space.
    :param action_space: Action space.
    :param device: PyTorch device of the batch.
    :param gae_lambda: Ignored: returns are Monte-Carlo.
    :param gamma: Discount factor.
    :param n_envs: Number of environments.
    """

    def reset(self) -> None:
        """Forget all steps."""
        BaseBuffer.reset(self)
        self._steps: list[tuple[Any, ...]] = []
        # Steps that belong to the batch.
        self.n_transitions = 0
        # (row, environment, last observation) of the episodes that a time limit cut.
        self.truncated: list[tuple[int, int, Any]] = []

    def size(self) -> int:
        """:return: Number of calls of :meth:`add` since the last reset."""
        return len(self._steps)

    def add(  # type: ignore[override]
        self, obs: Any, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray, active: np.ndarray
    ) -> None:
        """
        Add one step of all environments.

        :param obs: Observations before the step, (n_envs, ...), or a dict of those.
        :param actions: Actions as the policy drew them, (n_envs, ...).
        :param rewards: (n_envs,).
        :param dones: True where the step ended an episode, (n_envs,).
        :param active: True where the step belongs to the batch, (n_envs,). An environment that is left out once stays out.
        """
        copied = {key: np.array(value) for key, value in obs.items()} if isinstance(obs, dict) else np.array(obs)
        self.n_transitions += int(active.sum())
        self._steps.append((copied, actions, np.array(rewards, dtype=np.float64), dones, np.array(active)))

    def add_truncated(self, env: int, last_observation: Any) -> None:
        """
        Note that the last step of an environment was cut by a time limit.

        :param env: Index of the environment.
        :param last_observation: The observation that the last step led to.
        """
        self.truncated.append((len(self._steps) - 1, env, last_observation))

    def bootstrap(self, values: np.ndarray) -> None:
        """
        Add ``gamma * V(s_T)`` to the last rewards of truncated episodes, once: ``truncated`` is empty afterwards.

        :param values: ``V`` of the observations in ``truncated``, in that order.
        """
        for (row, env, _), value in zip(self.truncated, values, strict=True):
            self._steps[row][2][env] += self.gamma * value
        self.truncated.clear()

    def get_samples(self) -> EpisodeRolloutSamples:
        """:return: All steps that belong to the batch, with their returns."""
        observations, actions, rewards, dones, active = (
            _by_env([step[column] for step in self._steps]) for column in range(5)
        )
        kept = np.flatnonzero(active)
        # As in SB3's buffers, an action that is an array is one row, be it a single number.
        actions = actions if isinstance(self.action_space, spaces.Discrete) else actions.reshape(len(actions), -1)
        rewards, ends = rewards[kept], np.flatnonzero(dones[kept]) + 1
        returns_to_go = discounted_returns(rewards, ends, self.gamma)
        lengths = np.diff(ends, prepend=0)
        starts = ends - lengths
        rows = {key: v[kept] for key, v in observations.items()} if isinstance(observations, dict) else observations[kept]
        return EpisodeRolloutSamples(
            observations={k: self.to_torch(v) for k, v in rows.items()} if isinstance(rows, dict) else self.to_torch(rows),
            actions=self.to_torch(actions[kept]),
            returns_to_go=self.to_torch(returns_to_go.astype(np.float32)),
            episode_returns=self.to_torch(np.repeat(returns_to_go[starts], lengths).astype(np.float32)),
            timesteps=self.to_torch(np.arange(len(kept)) - np.repeat(starts, lengths)),
        )


def _by_env(steps: list[Any]) -> Any:
    """T items of shape (n_envs, ...) -> (n_envs * T, ...), one environment's steps after the other's."""
    if isinstance(steps[0], dict):
        return {key: _by_env([step[key] for step in steps]) for key in steps[0]}
    return np.concatenate(np.stack(steps, axis=1))


def discounted_returns(rewards: np.ndarray, episode_ends: np.ndarray, gamma: float) -> np.ndarray:
    """
    Discounted reward-to-go ``R_t = sum_k gamma^k r_{t+k}`` within each episode (Sutton & Barto 2018, equation 3.8).

    Without a loop over steps: after pass p each step holds its first ``2^p`` terms, and the next pass adds the
    ``2^p`` terms that the step ``2^p`` further on holds.

    :param rewards: Rewards of episodes that follow each other, shape (N,).
    :param episode_ends: For each episode the index after its last step, shape (E,), the last being N.
    :param gamma: Discount factor.
    :return: shape (N,), float64.
    """
    returns = rewards.astype(np.float64)
    lengths = np.diff(episode_ends, prepend=0)
    steps_left = np.repeat(episode_ends, lengths) - np.arange(len(rewards))
    shift, factor = 1, gamma
    while shift < lengths.max(initial=0):
        reach = np.flatnonzero(steps_left > shift)
        returns[reach] += factor * returns[reach + shift]
        shift, factor = 2 * shift, factor * factor
    return returns
