"""Rollouts of a policy: every transition is kept, in order."""

import gymnasium as gym
import numpy as np
import pytest
from five_episodes import assert_same
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras.datasets import DatasetError, collect_dataset


class Counter(gym.Env):
    """Observation: steps since the reset. Terminates after 3 steps in environment 0, is truncated after 4 in others."""

    observation_space = spaces.Box(0, 10, (1,))
    action_space = spaces.Box(-2, 2, (1,))

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), float(self.t), self.number == 0 and self.t == 3, self.t == 4, {}


def test_collected_transitions_by_hand():
    env = VecNormalize(DummyVecEnv([Counter, lambda: Counter(1)]))
    with pytest.raises(ValueError, match="n_steps=0: must be at least 1"):
        collect_dataset(env, None, 0)
    dataset = collect_dataset(env, lambda obs: obs / 10, 10)
    # Two environments, 5 steps each: 0 1 2 | 0 1 and 0 1 2 3 | 0, raw although VecNormalize is around.
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 1, 2, 1, 2, 3, 4, 1]
    assert dataset.rewards.tolist() == [1, 2, 3, 1, 2, 1, 2, 3, 4, 1]
    assert np.flatnonzero(dataset.terminations).tolist() == [2]
    assert np.flatnonzero(dataset.truncations).tolist() == [8]
    assert dataset.episode_ends.tolist() == [3, 5, 9, 10]
    np.testing.assert_allclose(dataset.actions, dataset.observations / 10)
    assert env.training
    assert env.norm_obs
    assert env.norm_reward
    assert env.obs_rms.count < 1  # and was not updated meanwhile


class Forgetful(DummyVecEnv):
    """Keeps the observation that ended an episode to itself, as some vectorised simulators do."""

    def step_wait(self):
        observations, rewards, dones, infos = super().step_wait()
        for info in infos:
            info.pop("terminal_observation", None)
        return observations, rewards, dones, infos


def test_a_vec_env_without_terminal_observations_is_named():
    with pytest.raises(DatasetError, match=r"environment 0 ended an episode at step 2, .* no 'terminal_observation'"):
        collect_dataset(Forgetful([Counter]), None, 10)
    assert len(collect_dataset(Forgetful([Counter]), None, 2)) == 2  # no episode ends


def test_random_collection_is_seeded():
    def collect():
        env = make_vec_env("Pendulum-v1", seed=3)
        env.action_space.seed(3)
        return collect_dataset(env, None, 250)

    assert_same(collect(), collect())


def test_at_least_as_many_steps_as_asked_are_taken():
    assert len(collect_dataset(DummyVecEnv([Counter, Counter]), None, 9)) == 10
