"""Environments and models that the tests of SingleStepA2C share."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_pg_extras import SingleStepA2C

BACKENDS = pytest.mark.parametrize("backend", ["auto", "torch"])


def vector(model) -> th.Tensor:
    return th.cat([p.detach().flatten() for p in model.policy.parameters()])


def make(policy="MlpPolicy", env="CartPole-v1", **kwargs) -> SingleStepA2C:
    return SingleStepA2C(policy, env, seed=0, **kwargs)


class Chain(gym.Env):
    """States A and B, one-hot, by turns whatever the action; rewards 1, 2, 3, ...; ends after ``length`` steps in B."""

    observation_space, action_space = spaces.Box(0, 1, (2,)), spaces.Discrete(2)

    def __init__(self, length: int, truncated: bool = False) -> None:
        self.length, self.truncated = length, truncated
        self.actions: list[int] = []

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.eye(2, dtype=np.float32)[0], {}

    def step(self, action):
        self.actions.append(int(action))
        self.t += 1
        end = self.t == self.length
        state = 1 if end else self.t % 2
        return np.eye(2, dtype=np.float32)[state], float(self.t), end and not self.truncated, end and self.truncated, {}


def chain_model(env, **kwargs) -> SingleStepA2C:
    """Linear actor and critic, SGD; V(A) = 0.4, V(B) = 0.8; both actions as likely; gamma 0.5."""
    policy_kwargs = {"net_arch": [], "optimizer_class": th.optim.SGD, "optimizer_kwargs": {}}
    settings = {"learning_rate": 0.2, "critic_learning_rate": 0.1, "gamma": 0.5, "max_grad_norm": None} | kwargs
    model = SingleStepA2C("MlpPolicy", env, policy_kwargs=policy_kwargs, seed=0, **settings)
    with th.no_grad():
        for p in model.policy.parameters():
            p.zero_()
        model.policy.value_net.weight.copy_(th.tensor([[0.4, 0.8]]))
    return model


class Noise(gym.Env):
    """Random observations of 4 numbers and random rewards; 1 step in 10 terminates, and the 20th truncates."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = spaces.Box(-np.inf, np.inf, (4,)), action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=4).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        reward, terminated = self.np_random.normal() + 0.1 * np.sum(action), self.np_random.random() < 0.1
        return self.np_random.normal(size=4).astype(np.float32), float(reward), terminated, self.t == 20, {}


class Anything(gym.Env):
    """Random observations and rewards; ends after 7 steps."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.observation_space.sample(), float(self.np_random.normal()), self.t % 7 == 0, self.t % 5 == 0, {}
