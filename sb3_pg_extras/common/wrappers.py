"""Wrappers that entries of the hyper-parameter files name, and the environment of Stream AC, which has them all."""

from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeAwareObservation
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize


class TimeLimitTerminal(gym.Wrapper):
    """
    Makes a time limit a terminal state: right for an agent that sees the time, which is then part of the state
    (Pardo et al. 2018, "Time Limits in Reinforcement Learning", section 3); without it, leave time limits to bootstrap.

    :param env: The environment, whose observations hold the time.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """
        :param action: The action.
        :return: What the environment returned, terminated where it was truncated.
        """
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated or truncated, False, info


def make_stream_env(
    env_id: str, n_envs: int = 1, seed: int | None = None, gamma: float = 0.99, **env_kwargs: Any
) -> VecNormalize:
    """
    An environment for Stream AC (Elsayed, Vasan and Mahmood 2024), as in the zoo's entry for Hopper-v5: observations and
    rewards are normalised as they come, the time is an observation, and the time limit a terminal state.

    :param env_id: Id of an environment with a time limit.
    :param n_envs: Number of environments.
    :param seed: Seed of the environments.
    :param gamma: Discount factor of the returns by which rewards are normalised.
    :param env_kwargs: Arguments of the environment.
    :return: The environment for ``SingleStepA2C("StreamPolicy", env, **STREAM_PRESET)``.
    """

    def wrap(env: gym.Env) -> gym.Env:
        return TimeLimitTerminal(TimeAwareObservation(env, flatten=False, normalize_time=True))

    env = make_vec_env(env_id, n_envs, seed, wrapper_class=wrap, env_kwargs=env_kwargs)
    return VecNormalize(env, gamma=gamma, norm_obs_keys=["obs"], clip_obs=1e6, clip_reward=1e6)
