"""
Train entries of ``hyperparams/*.yml`` as the zoo does and evaluate them:
``python benchmarks/zoo_entries.py --algo reinforce``.

Runs ``sb3-pg-extras train``, then loads the final model and plays 100 episodes. One row per run goes to
``benchmarks/results/zoo_entries.csv`` as it ends; runs that are there already are not repeated.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pg_extras.zoo import ALGORITHMS, hyperparams_file
from sb3_pg_extras.zoo.jobs import run_missing

RUNS = Path(__file__).parent / "runs" / "zoo_entries"
RESULTS = Path(__file__).parent / "results" / "zoo_entries.csv"
FIELDS = ["algo", "env", "seed", "steps", "mean_return", "std_return", "steps_per_second", "entry"]
# Not environment ids, or too long to run here.
SKIPPED = {"default", "atari"}


def run(algo: str, env_id: str, seed: int, entry: str) -> dict[str, Any]:
    """Train one entry with the zoo's command, one thread, and evaluate the model it leaves."""
    from rl_zoo3.utils import create_test_env, get_saved_hyperparams

    folder = RUNS / str(seed)
    command = ["train", "--algo", algo, "--env", env_id, "--seed", str(seed), "--num-threads", "1", "--eval-freq", "-1"]
    start = time.perf_counter()
    log = subprocess.run(
        [sys.executable, "-m", "sb3_pg_extras.zoo", *command, "-f", str(folder), "--verbose", "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if log.returncode != 0:
        raise RuntimeError(f"{algo} on {env_id} failed:\n{log.stderr}")
    elapsed = time.perf_counter() - start
    run_folder = max((folder / algo).glob(f"{env_id}_*"), key=lambda path: path.stat().st_mtime)
    hyperparams, stats_path = get_saved_hyperparams(str(run_folder / env_id), test_mode=True)
    env = create_test_env(env_id, 1, stats_path, seed=1_000, should_render=False, hyperparams=hyperparams)
    model = ALGORITHMS[algo].load(run_folder / f"{env_id}.zip", device="cpu")
    returns, _ = evaluate_policy(model, env, n_eval_episodes=100, return_episode_rewards=True)
    figures = (f"{np.mean(returns):.1f}", f"{np.std(returns):.1f}", f"{model.num_timesteps / elapsed:.0f}")
    return dict(zip(FIELDS, (algo, env_id, seed, model.num_timesteps, *figures, entry), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="reinforce", choices=list(ALGORITHMS))
    parser.add_argument("--envs", nargs="+", help="entries to run; all by default")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    entries = yaml.safe_load(hyperparams_file(args.algo).read_text())
    envs = args.envs or [name for name in entries if name not in SKIPPED]
    jobs = [(args.algo, env, seed, str(entries[env])) for env in envs for seed in args.seeds]
    pool = ThreadPoolExecutor(args.workers)  # each thread waits for a process
    run_missing(RESULTS, FIELDS, jobs, lambda row: (row["algo"], row["env"], int(row["seed"]), row["entry"]), run, pool)


if __name__ == "__main__":
    main()
