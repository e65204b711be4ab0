"""
Hand-written loops for two well-known REINFORCE exercises, without Stable-Baselines3: what a student writes.

They are the yardstick of ``benchmarks/reinforce.py``, for returns and for speed. The course's loop is lean: it acts
without a graph and evaluates an episode in one batch. Spinning Up's keeps one graph per step and draws from
``torch.distributions.Categorical``, as most such scripts do.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn
from torch.distributions import Categorical


def mlp(sizes: list[int]) -> nn.Sequential:
    """ReLU layers with PyTorch's default initialisation."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def play_episode(env: gym.Env, policy: nn.Sequential) -> tuple[list[th.Tensor], list[float]]:
    """One episode: log-probabilities, each with its graph, and rewards."""
    obs, _ = env.reset()
    log_probs, rewards, done = [], [], False
    while not done:
        distribution = Categorical(logits=policy(th.as_tensor(obs)))
        action = distribution.sample()
        log_probs.append(distribution.log_prob(action))
        obs, reward, terminated, truncated, _ = env.step(action.item())
        rewards.append(float(reward))
        done = terminated or truncated
    return log_probs, rewards


def course(
    seed: int, n_episodes: int = 3000, on_step: Callable[[int], bool] | None = None
) -> tuple[list[float], nn.Sequential]:
    """
    CartPole-v1 of the course notes: 4-10-10-2, Adam 1e-3, gamma 0.999, one update per episode on the sum of
    ``-log pi * w``, w being gamma^t times the reward-to-go, standardised over the episode.

    :return: The return of each episode, and the policy.
    """
    th.manual_seed(seed)
    env = gym.make("CartPole-v1")
    env.reset(seed=seed)
    policy = mlp([4, 10, 10, 2])
    optimizer = th.optim.Adam(policy.parameters(), lr=1e-3)
    returns: list[float] = []
    steps = 0
    rng = np.random.default_rng(seed)
    for _ in range(n_episodes):
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
        if on_step is not None and not on_step(steps):
            break
    return returns, policy


def vpg(seed: int, n_updates: int = 40, on_step: Callable[[int], bool] | None = None) -> tuple[list[float], nn.Sequential]:
    """
    CartPole with 200 steps of the Spinning-Up exercise: 4-32-2, Adam 1e-2, at least 5,000 steps per update on the mean of
    ``-log pi * R``, R being the undiscounted return of the whole episode.

    :return: The mean return of each update's episodes, and the policy.
    """
    th.manual_seed(seed)
    env = gym.make("CartPole-v1", max_episode_steps=200)
    env.reset(seed=seed)
    policy = mlp([4, 32, 2])
    optimizer = th.optim.Adam(policy.parameters(), lr=1e-2)
    means: list[float] = []
    steps = 0
    for _ in range(n_updates):
        log_probs: list[th.Tensor] = []
        weights: list[float] = []
        returns: list[float] = []
        while len(weights) < 5000:
            episode, rewards = play_episode(env, policy)
            log_probs += episode
            returns.append(sum(rewards))
            weights += [returns[-1]] * len(rewards)
        optimizer.zero_grad()
        (-th.stack(log_probs) * th.tensor(weights)).mean().backward()
        optimizer.step()
        means.append(float(np.mean(returns)))
        steps += len(weights)
        if on_step is not None and not on_step(steps):
            break
    return means, policy


def greedy_return(policy: nn.Sequential, max_episode_steps: int, n_episodes: int = 100) -> float:
    """Mean return of greedy episodes."""
    env = gym.make("CartPole-v1", max_episode_steps=max_episode_steps)
    total = 0.0
    obs, _ = env.reset(seed=1_000)
    for _ in range(n_episodes):
        done = False
        while not done:
            with th.no_grad():
                action = int(policy(th.as_tensor(obs)).argmax())
            obs, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            done = terminated or truncated
        obs, _ = env.reset()
    return total / n_episodes
