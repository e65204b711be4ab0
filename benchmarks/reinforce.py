"""
REINFORCE against the two reference exercises and out of the box: ``python benchmarks/reinforce.py``.

Each run trains in a process of its own with one thread; its row goes to ``benchmarks/results/reinforce.csv`` as it ends, and
runs that are there already are not repeated. Its speed: ``benchmarks/online_speed.py``.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from reinforce_reference import course, greedy_return, vpg
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from sb3_pg_extras import REINFORCE
from sb3_pg_extras.zoo.jobs import run_missing

RESULTS = Path(__file__).parent / "results"
FIELDS = ["experiment", "seed", "steps", "updates", "train_return", "greedy_return", "steps_per_second"]


def network(*layers: int) -> dict[str, Any]:
    """ReLU layers with PyTorch's default initialisation, as the exercises have them."""
    return {"net_arch": {"pi": list(layers), "vf": []}, "activation_fn": th.nn.ReLU, "ortho_init": False}


# The exercises' settings as REINFORCE's arguments. The course's script sums its loss over the episode, ours takes the mean.
# With Adam a sum makes larger steps while episodes grow longer, which a learning rate of 3e-3 instead of 1e-3 makes up for.
COURSE = {
    "learning_rate": 3e-3, "gamma": 0.999, "n_episodes": 1, "discount_weighting": True, "normalize_returns": True,
    "max_grad_norm": None, "policy_kwargs": network(10, 10),
}  # fmt: skip
VPG = {
    "learning_rate": 1e-2, "gamma": 1.0, "n_episodes": 1, "n_steps": 5000, "credit": "episode", "normalize_returns": False,
    "max_grad_norm": None, "policy_kwargs": network(32),
}  # fmt: skip


CHANGES: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, learning rate 1e-3": {"learning_rate": 1e-3},
    "ours, standardised": {"normalize_returns": True},
    "ours, reward-to-go": {"credit": "reward_to_go"},
}


class Stop(BaseCallback):
    """Ends the training after a number of episodes or updates, and notes how many episodes each update had."""

    def __init__(self, n_episodes: float = np.inf, n_updates: float = np.inf) -> None:
        super().__init__()
        self.n_episodes, self.n_updates = n_episodes, n_updates
        self.ends: list[int] = []

    def _on_rollout_end(self) -> None:
        self.ends.append(self.model._n_finished)  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return self.model._n_finished < self.n_episodes and self.model._n_updates < self.n_updates  # type: ignore[attr-defined]


def train_ours(settings: dict[str, Any], seed: int, max_episode_steps: int, stop: Stop) -> tuple[REINFORCE, list[float]]:
    """:return: The model, and the returns of all episodes it played."""
    env = Monitor(gym.make("CartPole-v1", max_episode_steps=max_episode_steps))
    model = REINFORCE("MlpPolicy", env, seed=seed, device="cpu", **settings)
    model.learn(10**8, callback=stop)
    return model, env.get_episode_rewards()


def greedy(model: REINFORCE, max_episode_steps: int) -> float:
    """Mean return of 100 greedy episodes."""
    env_kwargs = {"max_episode_steps": max_episode_steps}
    env = make_vec_env("CartPole-v1", n_envs=10, seed=1_000, env_kwargs=env_kwargs)
    return float(evaluate_policy(model, env, n_eval_episodes=100)[0])  # type: ignore[arg-type]


def run(experiment: str, seed: int) -> dict[str, Any]:
    """One training run, evaluated."""
    th.set_num_threads(1)
    start = time.perf_counter()
    exercise, _, variant = experiment.partition(": ")
    limit = 200 if exercise == "vpg" else 500
    if variant == "reference":
        counted = [0]

        def count(steps: int) -> bool:
            counted[0] = steps
            return True

        returns, policy = (course if exercise == "course" else vpg)(seed, on_step=count)
        elapsed, steps, updates = time.perf_counter() - start, counted[0], len(returns)
        trained = float(np.mean(returns[-100:] if exercise == "course" else returns[-5:]))
        greedy_mean = greedy_return(policy, limit)
    elif exercise == "default":
        model = REINFORCE("MlpPolicy", "CartPole-v1", seed=seed, device="cpu").learn(200_000)
        elapsed, steps, updates = time.perf_counter() - start, model.num_timesteps, model._n_updates
        assert model.ep_info_buffer is not None
        trained, greedy_mean = float(np.mean([info["r"] for info in model.ep_info_buffer])), greedy(model, limit)
    else:
        settings = (COURSE if exercise == "course" else VPG) | CHANGES[variant]
        stop = Stop(n_episodes=3000) if exercise == "course" else Stop(n_updates=40)
        model, returns = train_ours(settings, seed, limit, stop)
        elapsed, steps, updates = time.perf_counter() - start, model.num_timesteps, model._n_updates
        # The episodes of the last 100, or of the last 5 updates.
        last = returns[-100:] if exercise == "course" else returns[stop.ends[-6] : stop.ends[-1]]
        trained, greedy_mean = float(np.mean(last)), greedy(model, limit)
    values = (experiment, seed, steps, updates, f"{trained:.1f}", f"{greedy_mean:.1f}", f"{steps / elapsed:.0f}")
    return dict(zip(FIELDS, values, strict=True))


EXPERIMENTS = [
    "default",
    "course: reference", "course: ours",
    "vpg: reference", "vpg: ours", "vpg: ours, standardised", "vpg: ours, reward-to-go",
    "course: ours, learning rate 1e-3",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", nargs="+", default=EXPERIMENTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "reinforce.csv")
    args = parser.parse_args()
    jobs = [(experiment, seed) for experiment in args.experiments for seed in args.seeds]
    pool = ProcessPoolExecutor(args.workers)
    run_missing(args.output, FIELDS, jobs, lambda row: (row["experiment"], int(row["seed"])), run, pool)


if __name__ == "__main__":
    main()
