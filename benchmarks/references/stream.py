"""
The training script of the authors of stream-x (Elsayed, Vasan and Mahmood 2024), run unchanged on today's gymnasium.

It is not part of this repository: ``git clone https://github.com/mohmdelsayed/streaming-drl benchmarks/runs/streaming-drl``.
This file runs in a process that finds their modules (:func:`command`): for each line on its input it trains for that many
steps and answers with the seconds and the returns of the episodes.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent / "runs" / "streaming-drl"
SETTINGS = {"lr": 1.0, "gamma": 0.99, "lamda": 0.8, "entropy_coeff": 0.01, "kappa_policy": 3.0, "kappa_value": 2.0}


def command(seed: int, env: str) -> tuple[list[str], dict[str, str]]:
    """:return: The command line of this file as a worker, and its environment variables."""
    if not CHECKOUT.is_dir():
        sys.exit(f"the authors' script is needed: git clone https://github.com/mohmdelsayed/streaming-drl {CHECKOUT}")
    return [sys.executable, __file__, env, str(seed)], {**os.environ, "PYTHONPATH": str(CHECKOUT.resolve())}


def run(seed: int, env: str, n_timesteps: int) -> tuple[None, dict[str, float]]:
    """:return: No policy, and the mean return of the last 100 episodes, for ``benchmarks/run.py``."""
    line, environment = command(seed, env)
    output = subprocess.run(line, input=f"{n_timesteps}\n", env=environment, capture_output=True, text=True, check=True)
    answer = json.loads(output.stdout)
    returns, seconds = answer["returns"], answer["seconds"]
    last = sum(returns[-100:]) / len(returns[-100:])
    return None, {"n_timesteps": n_timesteps, "episodes": len(returns), "train_return": last, "seconds": seconds}


def main() -> None:
    import gymnasium as gym
    import numpy as np
    import stream_ac_continuous
    import torch as th

    returns: list[float] = []

    class EpisodeStatistics(gym.wrappers.RecordEpisodeStatistics):
        """Notes each return, and leaves it in an array, as gymnasium did when the script was written."""

        def step(self, action: Any) -> Any:
            obs, reward, terminated, truncated, info = super().step(action)
            if terminated or truncated:
                returns.append(float(info["episode"]["r"]))
                info["episode"]["r"] = np.array([returns[-1]])
            return obs, reward, terminated, truncated, info

    gym.wrappers.RecordEpisodeStatistics = EpisodeStatistics  # type: ignore[misc]
    th.set_num_threads(1)
    env, seed, answers = sys.argv[1], int(sys.argv[2]), sys.stdout
    sys.stdout = sys.stderr  # their script prints
    with tempfile.TemporaryDirectory() as folder:  # where it leaves its pickle
        os.chdir(folder)
        for line in sys.stdin:
            start, flags = time.perf_counter(), {"debug": False, "overshooting_info": False, "render": False}
            stream_ac_continuous.main(env, seed, total_steps=int(line), **flags, **SETTINGS)
            print(json.dumps({"seconds": time.perf_counter() - start, "returns": returns}), file=answers, flush=True)


if __name__ == "__main__":
    main()
