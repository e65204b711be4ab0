"""The wrappers that entries of the hyper-parameter files name."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import STREAM_PRESET, SingleStepA2C, make_stream_env
from sb3_pg_extras.common.wrappers import TimeLimitTerminal


def test_a_time_limit_can_be_made_terminal():
    env = make_vec_env(lambda: TimeLimitTerminal(TimeLimit(gym.make("Pendulum-v1"), 3)))
    env.reset()
    for step in range(3):
        _, _, dones, infos = env.step(np.zeros((1, 1)))
        assert dones[0] == (step == 2)
    assert not infos[0]["TimeLimit.truncated"]


def test_the_environment_of_stream_ac():
    env = make_stream_env("Pendulum-v1", n_envs=2, seed=0, gamma=0.9, g=5.0)
    first = env.reset()
    assert env.get_attr("g") == [5.0, 5.0]
    assert (env.norm_obs_keys, env.clip_obs, env.clip_reward, env.gamma) == (["obs"], 1e6, 1e6, 0.9)
    assert {key: value.shape for key, value in first.items()} == {"obs": (2, 3), "time": (2, 1)}
    for step in range(200):
        obs, _, dones, infos = env.step(np.zeros((2, 1)))
        assert dones.all() == (step == 199)
    assert not infos[0]["TimeLimit.truncated"]
    assert infos[0]["terminal_observation"]["time"] == pytest.approx(1.0)  # not normalised
    assert obs["time"].tolist() == [[0.0], [0.0]]


def test_the_preset_on_a_bare_environment_warns():
    with pytest.warns(UserWarning, match="hardly learns without VecNormalize .*: see make_stream_env"):
        SingleStepA2C("StreamPolicy", "Pendulum-v1", **STREAM_PRESET)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        SingleStepA2C("StreamPolicy", make_stream_env("Pendulum-v1"), **STREAM_PRESET).learn(3)
