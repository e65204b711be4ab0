"""
The one-step actor-critic exercise on MountainCarContinuous-v0 as a script of its own, for comparison.

It keeps the exercise's habits: a softplus standard deviation, the logarithm of a density plus 1e-5, observations
standardised by random samples, and a value of the next state that counts at the goal too.
"""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn
from torch.distributions import Normal


def xavier(module: nn.Module) -> None:
    """Xavier-uniform weights, no biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def observation_statistics(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """:return: Mean and standard deviation of 10,000 observations drawn from the space."""
    space = gym.make("MountainCarContinuous-v0").observation_space
    space.seed(seed)
    samples = np.array([space.sample() for _ in range(10_000)])
    return samples.mean(axis=0), samples.std(axis=0)


class Actor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 40), nn.ELU(), nn.Linear(40, 40), nn.ELU())
        self.mean, self.std = nn.Linear(40, 1), nn.Linear(40, 1)
        self.apply(xavier)

    def forward(self, obs: th.Tensor) -> Normal:
        x = self.body(obs)
        return Normal(self.mean(x), nn.functional.softplus(self.std(x)) + 1e-5)


def mountain_car(
    seed: int, n_episodes: int = 300, on_step: Callable[[int], bool] | None = None
) -> tuple[list[float], Callable[[np.ndarray], np.ndarray]]:
    """
    :param seed: Seed of everything.
    :param n_episodes: Episodes to play.
    :param on_step: Called with the number of steps taken; stops when it returns False.
    :return: Each episode's return, and the greedy policy.
    """
    th.manual_seed(seed)
    mean, std = observation_statistics(seed)
    actor = Actor()
    critic = nn.Sequential(nn.Linear(2, 400), nn.ELU(), nn.Linear(400, 400), nn.ELU(), nn.Linear(400, 1)).apply(xavier)
    actor_optimizer = th.optim.Adam(actor.parameters(), lr=2e-5)
    critic_optimizer = th.optim.Adam(critic.parameters(), lr=1e-3)
    env = gym.make("MountainCarContinuous-v0")

    def scaled(obs: np.ndarray) -> th.Tensor:
        return th.as_tensor((obs - mean) / std, dtype=th.float32)

    returns: list[float] = []
    steps = 0
    for episode in range(n_episodes):
        obs, _ = env.reset(seed=seed if episode == 0 else None)
        done, total = False, 0.0
        while not done:
            state = scaled(obs)
            distribution = actor(state)
            action = distribution.sample()
            obs, reward, terminated, truncated, _ = env.step(np.clip(action.numpy(), -1, 1))
            with th.no_grad():
                target = float(reward) + 0.99 * critic(scaled(obs))
            td_error = target - critic(state)
            actor_loss: Any = -(distribution.log_prob(action).exp() + 1e-5).log() * td_error.detach()
            actor_optimizer.zero_grad()
            actor_loss.sum().backward()
            actor_optimizer.step()
            critic_optimizer.zero_grad()
            td_error.square().sum().backward()
            critic_optimizer.step()
            done, total, steps = terminated or truncated, total + float(reward), steps + 1
            if on_step is not None and not on_step(steps):
                return returns, lambda x: actor(scaled(x)).mean.detach().numpy()
        returns.append(total)
    return returns, lambda x: actor(scaled(x)).mean.detach().numpy()
