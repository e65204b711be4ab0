"""
How fast a gradient step of BEAR is: ``python benchmarks/speed/bear.py [--d3rlpy PYTHON] [--threads 1 2] [--turns 7]``.

The data are random numbers of Hopper-v5's size; a step includes drawing its batch of 256. The networks are those of the
published preset, also for d3rlpy, or the default ones, after the warm-up.
PYTHON is that of a virtual environment with d3rlpy 2.8.1, which needs an older gymnasium than ours (``make benchmark`` makes
it). With a GPU, BEAR is measured there too.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from turns import FIELDS, Worker, random_field, ratio, reset_peak, serve, summary, take_turns, write

from sb3_pg_extras import BEAR, PUBLISHED_PRESET, OfflineDataset, save_dataset
from sb3_pg_extras.fast.matmuls import has_bf16

D3RLPY, D3RLPY_SCRIPT = "d3rlpy 2.8.1", Path(__file__).parent.parent / "references" / "d3rlpy_speed.py"
# Loop -> gradient steps in one turn, and BEAR's arguments.
LOOPS: dict[str, tuple[int, dict[str, Any]]] = {
    D3RLPY: (25, {}),
    "BEAR, published preset": (30, PUBLISHED_PRESET),
    "BEAR, published preset, behaviour frozen": (100, PUBLISHED_PRESET | {"behavior_steps": 1}),
    "BEAR, in the warm-up": (50, {"behavior_steps": None}),
    "BEAR": (100, {"behavior_steps": 1}),
    "BEAR, bf16": (150, {"behavior_steps": 1, "precision": "bf16"}),
}
# Hopper-v5's observations and actions.
SIZE = (11, 3)


def steps(args: argparse.Namespace) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "data.npz")
        fields = {name: random_field(name, args.rows, *SIZE) for name in FIELDS}
        box, actions = (spaces.Box(low, -low, (n,), np.float32) for low, n in zip((-np.inf, -1), SIZE, strict=True))
        save_dataset(OfflineDataset(**fields, observation_space=box, action_space=actions), file)
        for device, threads in [("cpu", threads) for threads in args.threads] + [("cuda", 1)] * th.cuda.is_available():
            bf16 = has_bf16(th.device(device))
            here = [loop for loop in LOOPS if loop != D3RLPY and (bf16 or "bf16" not in loop)]
            command = [sys.executable, __file__, "--work"]
            workers = {loop: Worker([*command, loop, file, device, str(threads)]) for loop in here}
            if args.d3rlpy and device == "cpu":
                workers = {D3RLPY: Worker([args.d3rlpy, str(D3RLPY_SCRIPT), file, str(threads), "bear"]), **workers}
            loops = {loop: partial(worker.speed, LOOPS[loop][0]) for loop, worker in workers.items()}
            speeds = take_turns(loops, args.turns)
            for loop, worker in workers.items():
                row = {"device": device, "threads": threads, "loop": loop, "turns": args.turns}
                row |= summary("steps_per_second", speeds[loop], 2)
                row["times_d3rlpy"] = f"{ratio(speeds[loop], speeds[D3RLPY]):.2f}" if D3RLPY in speeds else ""
                row["peak_megabytes"] = "" if loop == D3RLPY else f"{worker.turn(1)['peak_bytes'] / 1e6:.0f}"
                rows.append(row)
                worker.end()
    write("bear_speed", rows)


def work(loop: str, file: str, device: str, threads: str) -> None:
    """In a process of its own."""
    th.set_num_threads(int(threads))
    reset_peak()
    model = BEAR("MlpPolicy", None, file, **{**LOOPS[loop][1], "warmup_fraction": 0}, seed=0, device=device)

    def learn(n_steps: int) -> None:
        model.learn(n_steps, log_interval=None, reset_num_timesteps=False)
        if device == "cuda":
            th.cuda.synchronize()

    serve(learn)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d3rlpy", help="the Python of a virtual environment with d3rlpy 2.8.1")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
    else:
        steps(args)


if __name__ == "__main__":
    main()
