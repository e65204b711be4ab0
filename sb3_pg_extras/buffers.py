"""Datasets -> torch batches."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer, RolloutBuffer
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
        # As in SB3's buffers, an action of several dimensions is one row.
        actions = actions.reshape(len(actions), -1) if actions.ndim > 2 else actions
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
