"""
BEAR on a Hopper-v5 medium-replay dataset, in full and with what makes it faster: ``python benchmarks/bear_hopper.py``, after
``benchmarks/make_hopper_dataset.py``.

The zoo's Hopper-v5 entry with a behaviour VAE of 256 units instead of 750, a shorter warm-up and 15,000 gradient steps, so
that a run takes minutes. Returns differ much from one checkpoint to the next here: a run's return is the mean over its last
five, a thousand steps apart, 20 greedy episodes each. One row per run goes to ``benchmarks/results/bear_hopper.csv`` as it
ends; runs that are there already are not repeated.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from make_hopper_dataset import DATASET, ENV_ID
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pg_extras import BEAR, load_dataset
from sb3_pg_extras.zoo import hyperparams_file
from sb3_pg_extras.zoo.jobs import run_missing

RESULTS = Path(__file__).parent / "results" / "bear_hopper.csv"
STEPS, CHECKPOINTS, EVERY, EPISODES, N_ENVS = 15_000, 5, 1_000, 20, 10
CHANGES = {"warmup_steps": 3_000, "policy_kwargs": {"vae_net_arch": [256, 256]}}
VARIANTS: dict[str, dict[str, Any]] = {
    "joint": {},
    "bf16": {"precision": "bf16"},
    "behaviour frozen after 5,000 steps": {"behavior_steps": 5_000},
}
FIELDS = [
    "variant", "seed", "gradient_steps", "bear_mean", "checkpoints", "cloning_mean", "dataset_mean", "dataset_best",
    "final_alpha", "final_mmd", "gradient_steps_per_second",
]  # fmt: skip


def run(variant: str, seed: int) -> dict[str, Any]:
    """Train and evaluate one model, in a process of its own with one thread."""
    import torch as th

    th.set_num_threads(1)
    entry = yaml.safe_load(hyperparams_file("bear").read_text())[ENV_ID] | CHANGES | VARIANTS[variant]
    del entry["n_timesteps"]
    dataset = load_dataset(DATASET)
    model = BEAR(entry.pop("policy"), ENV_ID, dataset, seed=seed, device="cpu", **entry)
    env = make_vec_env(ENV_ID, n_envs=N_ENVS, seed=1_000)

    def mean_return(policy: Any) -> float:
        return float(evaluate_policy(policy, env, EPISODES)[0])  # type: ignore[arg-type]

    seconds, means = 0.0, []
    for steps in [STEPS - (CHECKPOINTS - 1) * EVERY, *[EVERY] * (CHECKPOINTS - 1)]:
        start = time.perf_counter()
        model.learn(steps, reset_num_timesteps=False, log_interval=None)
        seconds += time.perf_counter() - start
        means.append(mean_return(model))
    mmd, count = model._stats["mmd"]
    returns = dataset.episode_returns()
    values = [
        variant, seed, model.num_timesteps, float(np.mean(means)), " ".join(f"{mean:.0f}" for mean in means),
        mean_return(model.behavior_vae), float(returns.mean()), float(returns.max()), model.log_alpha.exp().item(),
        mmd.item() / count, model.num_timesteps / seconds,
    ]  # fmt: skip
    return dict(zip(FIELDS, (f"{v:.4g}" if isinstance(v, float) else v for v in values), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    # Seed by seed: a benchmark that is stopped early has all variants of the first seeds.
    jobs = [(variant, seed) for seed in args.seeds for variant in args.variants]
    run_missing(
        RESULTS, FIELDS, jobs, lambda row: (row["variant"], int(row["seed"])), run, ProcessPoolExecutor(args.workers)
    )


if __name__ == "__main__":
    main()
