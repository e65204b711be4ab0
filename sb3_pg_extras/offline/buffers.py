"""Datasets -> torch batches."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.returns import n_step_returns
from sb3_pg_extras.datasets import OfflineDataset
from sb3_pg_extras.datasets.layout import check_spaces, policy_layout, scale_actions
from sb3_pg_extras.datasets.mapped import take
from sb3_pg_extras.offline.normalization import CLIP, EPSILON, running_returns, set_moments


class OfflineReplayBufferSamples(NamedTuple):
    """
    B transitions: SB3's ``ReplayBufferSamples``, with their rows in the dataset.

    ``observations`` and ``next_observations``, (B, ...) or dicts of those; ``actions``, (B, A), in [-1, 1]; ``dones``,
    (B, 1), 1 only where s' is terminal; ``rewards``, (B, 1); ``discounts``, (B, 1), that of the value of s'; ``indices``,
    (B,).
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    indices: th.Tensor


class Columns(NamedTuple):
    """
    The fields of all N transitions: tensors on the device, or arrays that stay in their file.

    ``last`` is the row whose next observation is the transition's, (N,); None where that is its own.
    """

    observations: Any
    actions: Any
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor
    last: th.Tensor | None


class OfflineReplayBuffer(ReplayBuffer):
    """
    A dataset as a full SB3 replay buffer of one environment: Box actions scaled to [-1, 1] and clipped to
    +-(1 - 1e-6), images in the policy's layout, ``dones`` only where the next state is terminal, so that truncation
    bootstraps.

    On the CPU the observations are those of the dataset, not a copy; of a memory-mapped dataset only a batch's own rows
    are read.

    :param dataset: The dataset.
    :param observation_space: The model's observation space (images channel first).
    :param action_space: The model's action space.
    :param device: PyTorch device of the batches.
    :param n_steps: Steps of the return: ``rewards`` are ``sum_{j<n} gamma^j r_{t+j}``, the next observation is that of the
        last step, ``discounts`` that of its value, as in SB3's ``NStepReplayBuffer``. An episode's end cuts it short.
    :param gamma: Discount factor of the n-step return.
    :param normalize_rewards: Whether to divide by the standard deviation of the discounted return, as ``VecNormalize`` does;
        ``return_rms`` holds it.
    :raises DatasetError: when the dataset's spaces differ from the model's.
    :raises ValueError: for ``n_steps`` below 1.
    """

    def __init__(
        self,
        dataset: OfflineDataset,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_steps: int = 1,
        gamma: float = 0.99,
        normalize_rewards: bool = False,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps={n_steps}: must be at least 1")
        # Not ReplayBuffer.__init__: it would allocate arrays that the dataset already has.
        BaseBuffer.__init__(self, len(dataset), observation_space, action_space, device, n_envs=1)
        self.full = True
        self.optimize_memory_usage = False
        self.handle_timeout_termination = True
        self.dataset = dataset
        self.n_steps, self.gamma = n_steps, gamma
        self.return_rms: RunningMeanStd | None = None
        if normalize_rewards:
            self.return_rms = set_moments(RunningMeanStd(shape=()), running_returns(dataset, gamma))
        self.columns = self.columns_of(dataset)

    def scaled_rewards(self, rewards: np.ndarray) -> np.ndarray:
        """
        :param rewards: As a dataset has them, any shape.
        :return: With ``normalize_rewards``, divided by the standard deviation of this dataset's return, and clipped.
        """
        if self.return_rms is None:
            return rewards
        return np.clip(rewards / np.sqrt(self.return_rms.var + EPSILON), -CLIP, CLIP)

    def columns_of(self, dataset: OfflineDataset) -> Columns:
        """
        :param dataset: This buffer's dataset, or a part of it.
        :return: Its transitions as the model takes them.
        :raises DatasetError: when its spaces differ from the model's.
        """
        check_spaces(dataset, self.observation_space, self.action_space)
        rewards, terminations = self.scaled_rewards(np.asarray(dataset.rewards)), np.asarray(dataset.terminations)
        discounts, last = np.full(len(dataset), self.gamma), None
        if self.n_steps > 1:
            rewards, discounts, last = n_step_returns(rewards, dataset.episode_ends, self.n_steps, self.gamma)
            terminations = terminations[last]
        actions: Any = dataset.actions
        return Columns(
            observations=map_arrays(self._held, policy_layout(dataset.observations, self.observation_space)),
            actions=actions if isinstance(actions, np.memmap) else self._to_device(_computable(self._scaled(actions))),
            next_observations=map_arrays(self._held, policy_layout(dataset.next_observations, self.observation_space)),
            dones=self._column(terminations),
            rewards=self._column(rewards),
            discounts=self._column(discounts),
            last=None if last is None else self._to_device(last),
        )

    def _scaled(self, actions: np.ndarray) -> np.ndarray:
        return scale_actions(actions, self.action_space).reshape(len(actions), -1)

    def _held(self, array: np.ndarray) -> th.Tensor | np.ndarray:
        return array if isinstance(array, np.memmap) else self._to_device(_computable(array))

    def _column(self, values: np.ndarray) -> th.Tensor:
        return self._to_device(values.astype(np.float32, copy=False).reshape(-1, 1))

    def _to_device(self, array: np.ndarray) -> th.Tensor:
        with warnings.catch_warnings():
            # The dataset's arrays are read-only, and nothing writes to these tensors.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return th.from_numpy(array).to(self.device)

    def sample(  # type: ignore[override]
        self, batch_size: int, env: VecNormalize | None = None, generator: th.Generator | None = None
    ) -> OfflineReplayBufferSamples:
        """
        Draw transitions uniformly, with replacement.

        :param batch_size: Number of transitions, B.
        :param env: Normalises observations and rewards, if given.
        :param generator: Source of the draw; PyTorch's global one by default.
        :return: The batch.
        """
        device = th.device("cpu") if generator is None else generator.device
        indices = th.randint(self.size(), (batch_size,), generator=generator, device=device)
        return self.get(indices, env)

    def get(self, indices: th.Tensor | np.ndarray, env: VecNormalize | None = None) -> OfflineReplayBufferSamples:
        """
        :param indices: Row numbers, shape (B,).
        :param env: Normalises observations and rewards, if given.
        :return: Those transitions.
        """
        indices = th.as_tensor(indices, device=self.device)
        batch = self._gather(self.columns, indices)
        if env is None:
            return batch
        return batch._replace(
            observations=self._normalized(batch.observations, env),
            next_observations=self._normalized(batch.next_observations, env),
            rewards=self._normalized_rewards(batch.rewards, env),
        )

    def _gather(self, columns: Columns, indices: th.Tensor) -> OfflineReplayBufferSamples:
        def rows(column: Any, indices: th.Tensor) -> th.Tensor:
            if isinstance(column, th.Tensor):
                return column.index_select(0, indices)
            return self._to_device(_computable(take(column, indices.cpu().numpy())))

        last = indices if columns.last is None else columns.last[indices]
        actions = rows(columns.actions, indices)
        if isinstance(columns.actions, np.memmap):
            actions = self._to_device(self._scaled(actions.cpu().numpy()))
        return OfflineReplayBufferSamples(
            observations=map_arrays(lambda column: rows(column, indices), columns.observations),
            actions=actions,
            next_observations=map_arrays(lambda column: rows(column, last), columns.next_observations),
            dones=rows(columns.dones, indices),
            rewards=rows(columns.rewards, indices),
            discounts=rows(columns.discounts, indices),
            indices=indices,
        )

    def _normalized(self, observations: Any, env: VecNormalize) -> Any:
        return map_arrays(self.to_torch, self._normalize_obs(map_arrays(lambda t: t.cpu().numpy(), observations), env))

    def _normalized_rewards(self, rewards: th.Tensor, env: VecNormalize) -> th.Tensor:
        if env.norm_reward and self.n_steps > 1:
            # Sums: scaled as single rewards are, not clipped.
            return rewards / float(np.sqrt(env.ret_rms.var + env.epsilon))
        return self.to_torch(self._normalize_reward(rewards.cpu().numpy(), env))

    def whole_dataset(self) -> OfflineDataset:
        """:return: The dataset, to write it or to train on it elsewhere."""
        return self.dataset

    def add(self, *args: Any, **kwargs: Any) -> None:
        """:raises RuntimeError: always: a dataset does not grow."""
        raise RuntimeError("A dataset does not grow. For a replay buffer that does, see BEAR.to_sac(env, keep_dataset=True)")

    # SB3's names for what the dataset holds, with SB3's axis of environments: (N, 1, ...).
    observations: Any = property(lambda self: _one_env(policy_layout(self.dataset.observations, self.observation_space)))
    next_observations: Any = property(
        lambda self: _one_env(policy_layout(self.dataset.next_observations, self.observation_space))
    )
    actions: Any = property(lambda self: _one_env(self._scaled(self.dataset.actions)))
    rewards: Any = property(lambda self: _one_env(self.dataset.rewards))
    dones: Any = property(lambda self: _one_env((self.dataset.terminations | self.dataset.truncations).astype(np.float32)))
    timeouts: Any = property(
        lambda self: _one_env((self.dataset.truncations & ~self.dataset.terminations).astype(np.float32))
    )


def _computable(array: np.ndarray) -> np.ndarray:
    """Floats in single precision, bytes as they are, other integers in a type that PyTorch computes with."""
    if array.dtype.kind == "f":
        array = array.astype(np.float32, copy=False)
    elif array.dtype not in (np.uint8, np.int8, np.int32, np.int64):
        array = array.astype(np.int64)
    # PyTorch has no negative strides.
    return array if min(array.strides, default=0) >= 0 else array.copy()


def _one_env(values: Any) -> Any:
    """(N, ...) -> (N, 1, ...), SB3's axis of environments."""
    return map_arrays(lambda array: array[:, np.newaxis], values)
