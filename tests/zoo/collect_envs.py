"""Environments that the tests of ``collect`` register by ``--gym-packages collect_envs``, in processes of their own too."""

import time

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Episodes(gym.Env):
    """
    Says of each row where it belongs: observations are (number drawn at the reset, steps since), rewards the steps before.

    Odd numbers terminate after 3 steps; even ones are truncated after 4.
    """

    observation_space = spaces.Box(0, 2**40, (2,), np.int64)
    action_space = spaces.Discrete(5)

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number, self.t = int(self.np_random.integers(2**40)), 0
        return np.array([self.number, 0]), {}

    def step(self, action):
        time.sleep(self.delay)
        self.t += 1
        odd = self.number % 2 == 1
        return np.array([self.number, self.t]), self.t - 1.0, odd and self.t == 3, not odd and self.t == 4, {}


gym.register("Episodes-v0", Episodes)
gym.register(
    "Flip-v0", "stable_baselines3.common.envs:BitFlippingEnv", kwargs={"n_bits": 3, "continuous": True, "max_steps": 4}
)
