"""The rollout buffer of whole episodes."""

from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, RolloutBuffer

from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.returns import discounted_returns


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
    Rollout buffer of whole episodes. An environment that has finished its part of the batch is stepped along with the
    others, but those steps are not sampled.

    :param buffer_size: Ignored: the buffer grows with the episodes.
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
        # (step, environment) -> what a time limit that bootstraps adds to the reward.
        self._bootstraps: dict[tuple[int, int], float] = {}
        # Steps that belong to the batch, and which environments are playing an episode of it.
        self.n_transitions = 0
        self.active = np.zeros(self.n_envs, dtype=bool)

    def resume(self, other: "EpisodeRolloutBuffer") -> None:
        """:param other: A buffer with an unfinished batch, which this one continues."""
        self._steps, self._bootstraps = other._steps, other._bootstraps
        self.n_transitions, self.active = other.n_transitions, other.active

    def size(self) -> int:
        """:return: Number of calls of :meth:`add` since the last reset."""
        return len(self._steps)

    def add(self, obs: Any, actions: np.ndarray, rewards: np.ndarray, dones: np.ndarray) -> None:  # type: ignore[override]
        """
        Add one step of all environments. It belongs to the batch where the environment is ``active``.

        :param obs: Observations before the step, (n_envs, ...), or a dict of those.
        :param actions: Actions as the policy drew them, (n_envs, ...).
        :param rewards: (n_envs,).
        :param dones: True where the step ended an episode, (n_envs,).
        """
        self.n_transitions += int(np.count_nonzero(self.active))
        self._steps.append((map_arrays(np.array, obs), actions, np.empty(self.n_envs), dones, self.active.copy()))
        self.set_last_rewards(rewards)

    def set_last_rewards(self, rewards: np.ndarray) -> None:
        """:param rewards: Those of the step added last, (n_envs,)."""
        # DummyVecEnv rounds rewards, SubprocVecEnv does not.
        self._steps[-1][2][:] = rewards.astype(np.float32, copy=False)

    # For callbacks, of all steps, (size(), n_envs, ...).
    actions: Any = property(lambda self: np.array([step[1] for step in self._steps]))

    @property
    def rewards(self) -> np.ndarray:  # type: ignore[override]
        """:return: Rewards of all steps, (size(), n_envs), with V at a time limit that bootstraps; a copy."""
        rewards = np.array([step[2] for step in self._steps])
        for index, value in self._bootstraps.items():
            rewards[index] += value
        rewards.setflags(write=False)
        return rewards

    @property
    def returns(self) -> np.ndarray:  # type: ignore[override]
        """:return: Returns-to-go of a complete batch, (size(), n_envs), 0 for steps left out; a copy."""
        dones, active = (_by_env(*column) for column in list(zip(*self._steps, strict=True))[3:])
        rewards, by_env = _by_env(*self.rewards), np.zeros(len(dones))
        by_env[active] = discounted_returns(rewards[active], np.flatnonzero(dones[active]) + 1, self.gamma)
        returns = by_env.reshape(self.n_envs, -1).T
        # Whoever changes it would change nothing else.
        returns.setflags(write=False)
        return returns

    def bootstrap(self, env: int, value: float) -> None:
        """
        Add ``gamma * V(s_T)`` to the last reward of an environment whose episode was cut by a time limit.

        :param env: Index of the environment.
        :param value: ``V(s_T)`` of the observation that the last step led to.
        """
        self._bootstraps[len(self._steps) - 1, env] = self.gamma * value

    def get_samples(self) -> EpisodeRolloutSamples:
        """:return: All steps that belong to the batch, with their returns."""
        observations, drawn, _, *columns = zip(*self._steps, strict=True)
        actions, rewards, dones, active = (_by_env(*column) for column in (drawn, self.rewards, *columns))
        kept = np.flatnonzero(active)
        # As in SB3's buffers, an action is a row, even a single number; only Discrete ones are scalars.
        actions = actions if isinstance(self.action_space, spaces.Discrete) else actions.reshape(len(actions), -1)
        ends = np.flatnonzero(dones[kept]) + 1
        returns_to_go = discounted_returns(rewards[kept], ends, self.gamma)
        lengths = np.diff(ends, prepend=0)
        starts = ends - lengths
        return EpisodeRolloutSamples(
            observations=map_arrays(lambda *steps: self.to_torch(_by_env(*steps)[kept]), *observations),
            actions=self.to_torch(actions[kept]),
            returns_to_go=self.to_torch(returns_to_go.astype(np.float32)),
            episode_returns=self.to_torch(np.repeat(returns_to_go[starts], lengths).astype(np.float32)),
            timesteps=self.to_torch(np.arange(len(kept)) - np.repeat(starts, lengths)),
        )


def _by_env(*steps: np.ndarray) -> np.ndarray:
    """T steps of shape (n_envs, ...) -> (n_envs * T, ...), one environment's steps after the other's."""
    return np.concatenate(np.stack(steps, axis=1))
