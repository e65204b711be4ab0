"""Gymnasium wrappers that entries of the hyper-parameter files name."""

from typing import Any

import gymnasium as gym


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
