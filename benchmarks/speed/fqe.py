"""
How fast a gradient step of FQE is next to d3rlpy's: ``python benchmarks/speed/fqe.py --d3rlpy PYTHON [--turns 7]``.

Both evaluate a new, deterministic BC policy of 256 x 256 units by a Q network of 256 x 256 units, with batches of 256
of random numbers of Hopper-v5's size, on one thread. PYTHON is that of a virtual environment with d3rlpy 2.8.1.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch as th
from bear import D3RLPY, D3RLPY_SCRIPT, SIZE
from gymnasium import spaces
from turns import FIELDS, Worker, random_field, ratio, serve, summary, take_turns, write

from sb3_pg_extras import BC, FQE, OfflineDataset, save_dataset

# Gradient steps in one turn.
STEPS = {D3RLPY: 200, "FQE": 400}


def work(file: str) -> None:
    """In a process of its own."""
    th.set_num_threads(1)
    fqe = FQE(BC("MlpPolicy", None, file, seed=0), file, seed=0, device="cpu", normalize_observations=False)
    fqe.learn(1)  # computes the policy's actions, once
    serve(lambda n_steps: fqe.learn(n_steps, log_interval=None, reset_num_timesteps=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d3rlpy", help="the Python of a virtual environment with d3rlpy 2.8.1")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work)
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "data.npz")
        fields = {name: random_field(name, args.rows, *SIZE) for name in FIELDS}
        box, actions = (spaces.Box(low, -low, (n,), np.float32) for low, n in zip((-np.inf, -1), SIZE, strict=True))
        save_dataset(OfflineDataset(**fields, observation_space=box, action_space=actions), file)
        workers = {
            D3RLPY: Worker([args.d3rlpy, str(D3RLPY_SCRIPT), "fqe", file, "cpu", "1", "256"]),
            "FQE": Worker([sys.executable, __file__, "--work", file]),
        }
        speeds = take_turns({loop: partial(worker.speed, STEPS[loop]) for loop, worker in workers.items()}, args.turns)
        for worker in workers.values():
            worker.end()
    rows = [{"loop": loop, "turns": args.turns} | summary("steps_per_second", speeds[loop], 1) for loop in workers]
    for row in rows:
        row["times_d3rlpy"] = f"{ratio(speeds[str(row['loop'])], speeds[D3RLPY]):.2f}"
    write("fqe_speed", rows)


if __name__ == "__main__":
    main()
