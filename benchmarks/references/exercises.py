"""
Textbook exercises as hand-written loops, without Stable-Baselines3: the references for REINFORCE. And what SingleStepA2C
needs for the settings of another exercise.

Each loop takes a seed and returns its greedy policy and what it measured; ``n_timesteps`` ends it early. The course's loop
is fast: it acts without a graph and evaluates an episode in one batch. Spinning Up's keeps one graph per step and draws from
``torch.distributions.Categorical``, as most such scripts do.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn
from torch.distributions import Categorical


class Greedy:
    """A function of a batch of observations as something that ``evaluate_policy`` plays."""

    def __init__(self, act: Callable[[th.Tensor], th.Tensor]) -> None:
        self.act = act

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = True) -> Any:
        with th.no_grad():
            return self.act(th.as_tensor(observation)).numpy(), state


def mlp(*sizes: int) -> nn.Sequential:
    """ReLU layers with PyTorch's default initialisation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def course(seed: int, env_id: str, n_episodes: int = 3000, n_timesteps: float = math.inf) -> tuple[Greedy, dict[str, float]]:
    """
    CartPole-v1 of the course notes: 4-10-10-2, Adam 1e-3, gamma 0.999, one update per episode on the sum of
    ``-log pi * w``, w being gamma^t times the reward-to-go, standardised over the episode.
    """
    th.manual_seed(seed)
    env = gym.make(env_id)
    env.reset(seed=seed)
    policy = mlp(4, 10, 10, 2)
    optimizer = th.optim.Adam(policy.parameters(), lr=1e-3)
    returns: list[float] = []
    steps = 0
    rng = np.random.default_rng(seed)
    while len(returns) < n_episodes and steps < n_timesteps:
        observations, actions, rewards = [], [], []
        obs, _ = env.reset()
        done = False
        while not done:
            with th.no_grad():
                left, right = policy(th.as_tensor(obs)).tolist()
            action = int(rng.random() < 1.0 / (1.0 + math.exp(left - right)))
            observations.append(obs)
            actions.append(action)
            obs, reward, terminated, truncated, _ = env.step(action)
            rewards.append(float(reward))
            done = terminated or truncated
        discounted = np.array(rewards) * 0.999 ** np.arange(len(rewards))
        weights = th.as_tensor(discounted[::-1].cumsum()[::-1].copy(), dtype=th.float32)
        weights = (weights - weights.mean()) / (weights.std(unbiased=False) + 1e-9)
        log_probs = th.log_softmax(policy(th.as_tensor(np.array(observations))), dim=1)
        optimizer.zero_grad()
        (-log_probs[th.arange(len(actions)), th.tensor(actions)] * weights).sum().backward()
        optimizer.step()
        returns.append(sum(rewards))
        steps += len(rewards)
    figures = {"n_timesteps": steps, "n_updates": len(returns), "train_return": float(np.mean(returns[-100:]))}
    return Greedy(lambda obs: policy(obs).argmax(dim=1)), figures


def vpg(seed: int, env_id: str, n_updates: int = 40, n_timesteps: float = math.inf) -> tuple[Greedy, dict[str, float]]:
    """
    CartPole with 200 steps of the Spinning-Up exercise: 4-32-2, Adam 1e-2, at least 5,000 steps per update on the mean of
    ``-log pi * R``, R being the undiscounted return of the whole episode.
    """
    th.manual_seed(seed)
    env = gym.make(env_id, max_episode_steps=200)
    env.reset(seed=seed)
    policy = mlp(4, 32, 2)
    optimizer = th.optim.Adam(policy.parameters(), lr=1e-2)
    means: list[float] = []
    steps = 0
    while len(means) < n_updates and steps < n_timesteps:
        log_probs: list[th.Tensor] = []
        weights: list[float] = []
        returns: list[float] = []
        while len(weights) < 5000:
            obs, _ = env.reset()
            rewards, done = [], False
            while not done:
                distribution = Categorical(logits=policy(th.as_tensor(obs)))
                action = distribution.sample()
                log_probs.append(distribution.log_prob(action))
                obs, reward, terminated, truncated, _ = env.step(action.item())
                rewards.append(float(reward))
                done = terminated or truncated
            returns.append(sum(rewards))
            weights += [returns[-1]] * len(rewards)
        optimizer.zero_grad()
        (-th.stack(log_probs) * th.tensor(weights)).mean().backward()
        optimizer.step()
        means.append(float(np.mean(returns)))
        steps += len(weights)
    figures = {"n_timesteps": steps, "n_updates": len(means), "train_return": float(np.mean(means[-5:]))}
    return Greedy(lambda obs: policy(obs).argmax(dim=1)), figures


def xavier(module: nn.Module) -> None:
    """Xavier-uniform weights, no biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


class Standardised(gym.wrappers.TransformObservation):
    """Observations standardised by 10,000 random samples from their space."""

    def __init__(self, env: gym.Env, seed: int = 0) -> None:
        space = gym.spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
        env.observation_space.seed(seed)
        samples = np.array([env.observation_space.sample() for _ in range(10_000)])
        mean, std = samples.mean(axis=0), samples.std(axis=0)
        super().__init__(env, lambda obs: ((obs - mean) / std).astype(np.float32), space)
