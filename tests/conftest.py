"""Small data that several test files share."""

import os

# Headless rendering, and one thread per process: the networks here are tiny.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch.utils._python_dispatch import TorchDispatchMode

th.set_num_threads(1)


class Operators(TorchDispatchMode):
    """Counts what reaches PyTorch's operators."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Dropping(FlattenExtractor):
    """Half of the features are 0, except in evaluation mode."""

    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.dropout = th.nn.Dropout(0.5)

    def forward(self, observations):
        return self.dropout(super().forward(observations))


TINY = {"net_arch": [16], "vae_net_arch": [16]}


def make_arrays(n: int = 40, seed: int = 0, episode: int = 10) -> dict:
    """Transitions of a made-up task: 3 observations, 2 actions in [-2, 3] x [0, 1], every 2nd episode truncated."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n + 1, 3)).astype(np.float32)
    ends = (np.arange(n) + 1) % episode == 0
    truncated = ends & ((np.arange(n) // episode) % 2 == 1)
    return {
        "observations": states[:-1],
        "actions": rng.uniform([-2, 0], [3, 1], size=(n, 2)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "next_observations": states[1:],
        "terminations": ends & ~truncated,
        "truncations": truncated,
        "observation_space": spaces.Box(-np.inf, np.inf, (3,), np.float32),
        "action_space": spaces.Box(np.array([-2, 0], np.float32), np.array([3, 1], np.float32)),
    }


@pytest.fixture
def arrays() -> dict:
    return make_arrays()
