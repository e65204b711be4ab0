"""Datasets -> torch batches."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import is_image_space, maybe_transpose
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.datasets import DatasetError, OfflineDataset

# Scaled actions stay this far inside [-1, 1], where the inverse of tanh is finite.
ACTION_MARGIN = 1e-6


class OfflineReplayBuffer(ReplayBuffer):
    """
    A dataset as a full SB3 replay buffer of one environment: Box actions scaled to [-1, 1] and clipped to
    +-(1 - 1e-6), images in the policy's layout, ``dones`` and ``timeouts`` told apart so that truncation bootstraps.

    :param dataset: The dataset.
    :param observation_space: The model's observation space (images channel first).
    :param action_space: The model's action space.
    :param device: PyTorch device of the batches.
    :raises DatasetError: when the dataset's spaces differ from these.
    """

    observations: Any
    next_observations: Any

    def __init__(
        self,
        dataset: OfflineDataset,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
    ) -> None:
        # Past ReplayBuffer.__init__: it would allocate arrays that the dataset already has.
        BaseBuffer.__init__(self, len(dataset), observation_space, action_space, device, n_envs=1)
        check_spaces(dataset, observation_space, action_space)
        self.full = True
        self.optimize_memory_usage = False
        self.handle_timeout_termination = True
        self.observations = _one_env(_policy_layout(dataset.observations, observation_space))
        self.next_observations = _one_env(_policy_layout(dataset.next_observations, observation_space))
        self.actions = _one_env(_scale(dataset.actions, action_space).reshape(len(dataset), self.action_dim))
        self.rewards = _one_env(dataset.rewards)
        self.dones = _one_env((dataset.terminations | dataset.truncations).astype(np.float32))
        self.timeouts = _one_env((dataset.truncations & ~dataset.terminations).astype(np.float32))

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

    def sample_indices(self, batch_size: int, generator: th.Generator | None = None) -> np.ndarray:
        """
        :param batch_size: Number of rows to draw.
        :param generator: Source of the draw; PyTorch's global one by default.
        :return: Row numbers, shape (B,).
        """
        device = generator.device if generator is not None else None
        return th.randint(self.size(), (batch_size,), generator=generator, device=device).cpu().numpy()

    def get(self, indices: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples | DictReplayBufferSamples:
        """
        :param indices: Row numbers, shape (B,).
        :param env: Normalises observations and rewards, if given.
        :return: Those transitions, as :meth:`sample` returns them.
        """
        terminations = self.dones[indices] * (1.0 - self.timeouts[indices])
        batch_type: Any = DictReplayBufferSamples if isinstance(self.observations, dict) else ReplayBufferSamples
        return batch_type(
            observations=self._get_observations(self.observations, indices, env),
            actions=self.to_torch(self.actions[indices, 0]),
            next_observations=self._get_observations(self.next_observations, indices, env),
            dones=self.to_torch(terminations),
            rewards=self.to_torch(self._normalize_reward(self.rewards[indices], env)),
        )

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        return self.get(batch_inds, env)

    def _get_observations(self, source: Any, indices: np.ndarray, env: VecNormalize | None) -> Any:
        if isinstance(source, dict):
            rows = self._normalize_obs({key: array[indices, 0] for key, array in source.items()}, env)
            assert isinstance(rows, dict)
            return {key: self.to_torch(array) for key, array in rows.items()}
        return self.to_torch(self._normalize_obs(source[indices, 0], env))  # type: ignore[arg-type]


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


def _same_layout(ours: spaces.Space, theirs: spaces.Space) -> bool:
    if isinstance(ours, spaces.Dict) and isinstance(theirs, spaces.Dict):
        return set(ours.spaces) == set(theirs.spaces) and all(_same_layout(ours[key], theirs[key]) for key in ours.spaces)
    if isinstance(ours, spaces.Box) and isinstance(theirs, spaces.Box):
        transposed = is_image_space(theirs) and len(ours.shape) == 3 and (ours.shape[2], *ours.shape[:2]) == theirs.shape
        return ours.shape == theirs.shape or transposed
    return ours == theirs


def _policy_layout(observations: Any, space: spaces.Space) -> Any:
    """Images channel first, as the policy sees them; what is channel first already stays."""
    if isinstance(space, spaces.Dict):
        return {key: _policy_layout(observations[key], space[key]) for key in space.spaces}
    return maybe_transpose(observations, space)


def _scale(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Environment units -> [-1, 1], as ``BasePolicy.scale_action``; discrete actions stay what they are."""
    if not isinstance(space, spaces.Box):
        return actions
    scaled = 2.0 * ((actions - space.low) / (space.high - space.low)) - 1.0
    return np.clip(scaled, -1.0 + ACTION_MARGIN, 1.0 - ACTION_MARGIN).astype(np.float32)


def _one_env(values: Any) -> Any:
    """(N, ...) -> (N, 1, ...), SB3's axis of environments."""
    if isinstance(values, dict):
        return {key: _one_env(value) for key, value in values.items()}
    return values[:, np.newaxis]
