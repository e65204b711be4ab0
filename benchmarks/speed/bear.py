"""
How fast a gradient step of BEAR is: ``python benchmarks/speed/bear.py [--d3rlpy PYTHON] [--threads 1 2] [--turns 7]``.

The data are random numbers of Hopper-v5's size; a step includes drawing its batch of 256. The networks are those of the
published preset, also for d3rlpy, or the default ones, after the warm-up.
PYTHON is that of a virtual environment with d3rlpy 2.8.1, which needs an older gymnasium than ours (``make benchmark`` makes
it). ``--gpu`` measures on a GPU, also with batches of 2048, operator by operator and as CUDA graphs. ``--fqe`` measures FQE
instead: a Q network of 256 x 256 units evaluates a new, deterministic BC policy of 256 x 256 units.
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

from sb3_pg_extras import BC, BEAR, FQE, PUBLISHED_PRESET, OfflineAlgorithm, OfflineDataset, save_dataset
from sb3_pg_extras.fast.matmuls import has_bf16

D3RLPY, D3RLPY_SCRIPT = "d3rlpy 2.8.1", Path(__file__).parent.parent / "references" / "d3rlpy_speed.py"
# Loop -> gradient steps in one turn, and BEAR's arguments.
LOOPS: dict[str, tuple[int, dict[str, Any]]] = {
    D3RLPY: (25, {}),
    "BEAR, published preset": (30, PUBLISHED_PRESET),
    "BEAR, published preset, behaviour frozen": (100, PUBLISHED_PRESET | {"behavior_steps": 1}),
    "BEAR, behaviour still learning": (50, {"behavior_steps": None}),
    "BEAR": (100, {"behavior_steps": 1}),
    "BEAR, bf16": (150, {"behavior_steps": 1, "precision": "bf16"}),
}
GPU_LOOPS: dict[str, tuple[int, dict[str, Any]]] = {
    D3RLPY: (30, {}),
    "BEAR, published preset": (30, PUBLISHED_PRESET),
    "BEAR, published preset, CUDA graphs": (2000, PUBLISHED_PRESET),
    "BEAR": (50, {"behavior_steps": 1}),
    "BEAR, CUDA graphs": (2000, {"behavior_steps": 1}),
    "BEAR, bf16, CUDA graphs": (2000, {"behavior_steps": 1, "precision": "bf16"}),
}
FQE_LOOPS: dict[str, tuple[int, dict[str, Any]]] = {D3RLPY: (200, {}), "FQE": (400, {})}
# Hopper-v5's observations and actions.
SIZE = (11, 3)


def steps(args: argparse.Namespace) -> None:
    rows = []
    result = "fqe_speed" if args.fqe else "bear_speed_gpu" if args.gpu else "bear_speed"
    all_loops = {"fqe_speed": FQE_LOOPS, "bear_speed_gpu": GPU_LOOPS, "bear_speed": LOOPS}[result]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "data.npz")
        fields = {name: random_field(name, args.rows, *SIZE) for name in FIELDS}
        box, actions = (spaces.Box(low, -low, (n,), np.float32) for low, n in zip((-np.inf, -1), SIZE, strict=True))
        save_dataset(OfflineDataset(**fields, observation_space=box, action_space=actions), file)
        places = [("cuda", 1, size) for size in (256, 2048)] if args.gpu else [("cpu", n, 256) for n in args.threads]
        for device, threads, batch_size in places:
            bf16 = has_bf16(th.device(device))
            loops = {loop: how for loop, how in all_loops.items() if bf16 or "bf16" not in loop}
            workers = {}
            for loop in loops:
                place = [file, device, str(threads), str(batch_size)]
                if loop != D3RLPY:
                    workers[loop] = Worker([sys.executable, __file__, "--work", loop, *place])
                elif args.d3rlpy:
                    workers[loop] = Worker([args.d3rlpy, str(D3RLPY_SCRIPT), "fqe" if args.fqe else "bear", *place])
            speeds = take_turns(
                {loop: partial(worker.speed, loops[loop][0]) for loop, worker in workers.items()}, args.turns
            )
            for loop, worker in workers.items():
                row = {"device": th.cuda.get_device_name() if args.gpu else device, "threads": threads}
                row |= {"batch_size": batch_size, "loop": loop, "turns": args.turns}
                row |= summary("steps_per_second", speeds[loop], 2)
                row["times_d3rlpy"] = f"{ratio(speeds[loop], speeds[D3RLPY]):.2f}" if D3RLPY in speeds else ""
                row["peak_megabytes"] = "" if loop == D3RLPY else f"{worker.turn(1)['peak_bytes'] / 1e6:.0f}"
                rows.append(row)
                worker.end()
            write(result, rows)


def work(loop: str, file: str, device: str, threads: str, batch_size: str) -> None:
    """In a process of its own."""
    th.set_num_threads(int(threads))
    reset_peak()
    model: OfflineAlgorithm
    if loop in FQE_LOOPS:
        model = FQE(BC("MlpPolicy", None, file, seed=0), file, seed=0, device=device, normalize_observations=False)
        model.learn(1)  # computes the policy's actions, once
    else:
        arguments = {**(LOOPS | GPU_LOOPS)[loop][1], "warmup_fraction": 0, "batch_size": int(batch_size)}
        model = BEAR("MlpPolicy", None, file, **arguments, seed=0, device=device)
    model.cuda_graphs = "CUDA graphs" in loop

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
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--gpu", action="store_true", help="on a GPU")
    other.add_argument("--fqe", action="store_true", help="FQE instead of BEAR")
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
    else:
        steps(args)


if __name__ == "__main__":
    main()
