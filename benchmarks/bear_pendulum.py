"""
BEAR on the bundled Pendulum-v1 dataset: ``python benchmarks/bear_pendulum.py``.

Each variant is the zoo's Pendulum-v1 entry with a few settings replaced, trained from three seeds and evaluated over 100
greedy episodes, next to behaviour cloning from the same run's VAE. One row per run goes to
``benchmarks/results/bear_pendulum.csv`` as it ends; runs that are there already are not repeated.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pg_extras import BEAR, load_dataset
from sb3_pg_extras.zoo import hyperparams_file
from sb3_pg_extras.zoo.jobs import run_missing

ENV_ID, EPISODES = "Pendulum-v1", 100
RESULTS = Path(__file__).parent / "results" / "bear_pendulum.csv"
VARIANTS: dict[str, dict[str, Any]] = {
    "zoo entry (unbiased, 0.1)": {},
    "zoo entry, bf16": {"precision": "bf16"},
    "zoo entry, behaviour frozen after 5,000 steps": {"behavior_steps": 5_000},
    "zoo entry, both": {"precision": "bf16", "behavior_steps": 5_000},
    "biased, 0.05 (as published)": {"mmd_estimator": "biased", "mmd_threshold": 0.05},
    "biased, auto": {"mmd_estimator": "biased", "mmd_threshold": "auto"},
    "unbiased, 0.05": {"mmd_estimator": "unbiased", "mmd_threshold": 0.05},
    "unbiased, auto": {"mmd_estimator": "unbiased", "mmd_threshold": "auto"},
    "no constraint (alpha 0)": {"alpha": 0.0},
}
FIELDS = [
    "variant", "seed", "gradient_steps", "bear_mean", "bear_std", "cloning_mean", "cloning_sampled_mean",
    "dataset_mean", "sac_mean", "final_alpha", "final_mmd_threshold", "gradient_steps_per_second",
]  # fmt: skip


def run(variant: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one model, in a process of its own with one thread."""
    import torch as th

    th.set_num_threads(1)
    entry = yaml.safe_load(hyperparams_file("bear").read_text())[ENV_ID] | VARIANTS[variant]
    steps, policy = int(entry.pop("n_timesteps")), entry.pop("policy")
    entry["policy_kwargs"] = eval(entry["policy_kwargs"])  # as the zoo does
    model = BEAR(policy, ENV_ID, seed=seed, device="cpu", **entry)
    start = time.perf_counter()
    model.learn(steps)
    elapsed = time.perf_counter() - start

    def mean_and_std(policy: Any, deterministic: bool = True) -> tuple[float, float]:
        env = make_vec_env(ENV_ID, n_envs=20, seed=1_000)
        returns, _ = evaluate_policy(policy, env, EPISODES, deterministic, return_episode_rewards=True)
        return float(np.mean(returns)), float(np.std(returns))

    bear = mean_and_std(model)
    dataset = load_dataset(entry["dataset"])
    assert dataset.reference_scores is not None
    values = [
        variant, seed, steps, *bear, mean_and_std(model.behavior_vae)[0], mean_and_std(model.behavior_vae, False)[0],
        dataset.episode_returns().mean(), dataset.reference_scores[1], model.log_alpha.exp().item(),
        model.constraint_threshold, steps / elapsed,
    ]  # fmt: skip
    return dict(zip(FIELDS, (f"{v:.4g}" if isinstance(v, float) else v for v in values), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    jobs = [(variant, seed) for variant in args.variants for seed in args.seeds]
    run_missing(
        args.output, FIELDS, jobs, lambda row: (row["variant"], int(row["seed"])), run, ProcessPoolExecutor(args.workers)
    )


if __name__ == "__main__":
    main()
