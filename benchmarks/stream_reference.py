"""
The training script of the authors of stream-x (Elsayed, Vasan and Mahmood 2024), run as it is on today's gymnasium.

It is not part of this repository: ``git clone https://github.com/mohmdelsayed/streaming-drl`` and name that folder. Every
episode's return is written as it ends, to ``<output>/<env>_<seed>.csv``.
"""

import argparse
import csv
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th


def episode_statistics(log: Any) -> type[gym.wrappers.RecordEpisodeStatistics]:
    """:return: gymnasium's wrapper, logging each episode, with its return in an array as when the script was written."""
    start, steps, rows = time.perf_counter(), 0, csv.writer(log)
    rows.writerow(["step", "return", "seconds"])

    class EpisodeStatistics(gym.wrappers.RecordEpisodeStatistics):
        def step(self, action: Any) -> Any:
            nonlocal steps
            steps += 1
            obs, reward, terminated, truncated, info = super().step(action)
            if terminated or truncated:
                rows.writerow([steps, info["episode"]["r"], f"{time.perf_counter() - start:.1f}"])
                log.flush()
                info["episode"]["r"] = np.array([info["episode"]["r"]])
            return obs, reward, terminated, truncated, info

    return EpisodeStatistics


def train(folder: Path, env_id: str, seed: int, total_steps: int, log: Any) -> None:
    """
    Run the authors' ``stream_ac_continuous.main`` with the settings of their command line.

    :param folder: Their repository.
    :param env_id: The environment's id.
    :param seed: Their ``--seed``.
    :param total_steps: Their ``--total_steps``.
    :param log: An open file, for the episodes.
    """
    th.set_num_threads(1)
    sys.path.insert(0, str(folder.resolve()))
    import stream_ac_continuous

    settings = {"lr": 1.0, "gamma": 0.99, "lamda": 0.8, "entropy_coeff": 0.01, "kappa_policy": 3.0, "kappa_value": 2.0}
    theirs = gym.wrappers.RecordEpisodeStatistics
    gym.wrappers.RecordEpisodeStatistics = episode_statistics(log)  # type: ignore[misc]
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:  # where the script leaves its pickle
        os.chdir(scratch)
        try:
            stream_ac_continuous.main(
                env_id, seed, total_steps=total_steps, debug=False, overshooting_info=False, render=False, **settings
            )
        finally:
            os.chdir(here)
            gym.wrappers.RecordEpisodeStatistics = theirs  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a clone of github.com/mohmdelsayed/streaming-drl")
    parser.add_argument("--env", default="Hopper-v5")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--total-steps", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "runs" / "stream_reference")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / f"{args.env}_{args.seed}.csv", "w", newline="") as log:
        train(args.folder, args.env, args.seed, args.total_steps, log)
    (args.output / f"{args.env}_{args.seed}.done").touch()


if __name__ == "__main__":
    main()
