"""The wrappers that entries of the hyper-parameter files name."""

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras.common.wrappers import TimeLimitTerminal


def test_a_time_limit_can_be_made_terminal():
    env = make_vec_env(lambda: TimeLimitTerminal(TimeLimit(gym.make("Pendulum-v1"), 3)))
    env.reset()
    for step in range(3):
        _, _, dones, infos = env.step(np.zeros((1, 1)))
        assert dones[0] == (step == 2)
    assert not infos[0]["TimeLimit.truncated"]
