"""
How fast a gradient step of BEAR is; then ``online_speed.py``, the same of the other two algorithms, and ``loop_cost.py``.

    python benchmarks/speed.py [--d3rlpy PYTHON] [--stream-x CHECKOUT] [--threads 1 2] [--turns 7] [--rows 1000000]

writes ``benchmarks/results/bear_speed.csv`` and ``docs/images/bear_speed.png``. The data are random numbers of Hopper-v5's
size, the networks the default ones, the batch 256; a step includes drawing its batch. Each loop is a process of its own;
they take turns, one at a time, and medians over the turns are compared. PYTHON is that of a virtual environment with d3rlpy
2.8.1, which needs an older gymnasium than ours (``make benchmark`` makes it). With a GPU, the same loops there too.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from load_speed import high_water, reset_high_water

from sb3_pg_extras.datasets import OfflineDataset

RESULTS = Path(__file__).parent / "results" / "bear_speed.csv"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "bear_speed.png"
OBSERVATIONS, ACTIONS, BATCH, HIDDEN, VAE_HIDDEN, LATENT = 11, 3, 256, 256, 750, 6
N_TARGET, N_MMD = 10, 4
EPISODE = 1000
# Loop -> gradient steps in one turn.
LOOPS = {
    "d3rlpy 2.8.1": 25,
    "plain": 25,
    "BEAR": 30,
    "BEAR, bf16": 50,
    "BEAR, behaviour frozen": 100,
    "BEAR, behaviour frozen, bf16": 150,
    "products only, MKL": 50,
    "products only, oneDNN": 50,
    "products only, bf16": 80,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d3rlpy", help="the Python of a virtual environment with d3rlpy 2.8.1")
    parser.add_argument("--stream-x", help="a clone of github.com/mohmdelsayed/streaming-drl")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--work", nargs=4, metavar=("LOOP", "FILE", "DEVICE", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
        return
    import torch as th

    settings = [("cpu", threads) for threads in args.threads] + [("cuda", 1)] * th.cuda.is_available()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, **arrays(args.rows))
        for device, threads in settings:
            rows += measure(args, str(file), device, threads)
            RESULTS.parent.mkdir(exist_ok=True)
            with open(RESULTS, "w", newline="") as output:
                writer = csv.DictWriter(output, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    plot(rows)
    stream_x = [] if args.stream_x is None else ["--stream-x", args.stream_x]
    for script in (["online_speed.py", *stream_x], ["loop_cost.py"]):
        subprocess.run([sys.executable, str(Path(__file__).parent / script[0]), *script[1:]], check=True)


def measure(args: argparse.Namespace, file: str, device: str, threads: int) -> list[dict[str, Any]]:
    workers: dict[str, Worker] = {}
    for loop in args.loops:
        if loop == "d3rlpy 2.8.1":
            if args.d3rlpy and device == "cpu":
                workers[loop] = Worker([args.d3rlpy, str(Path(__file__).parent / "d3rlpy_worker.py"), file, str(threads)])
        else:
            workers[loop] = Worker([sys.executable, __file__, "--work", loop, file, device, str(threads)])
    speeds: dict[str, list[float]] = {loop: [] for loop in workers}
    for turn in range(args.turns + 1):
        for loop, worker in workers.items():
            answer = worker.turn(LOOPS[loop])
            if turn > 0:  # the first turn warms up
                speeds[loop].append(LOOPS[loop] / answer["seconds"])
                print(device, threads, f"turn {turn}", loop, f"{speeds[loop][-1]:.2f} steps/s", sep="\t", flush=True)
    rows = []
    for loop, worker in workers.items():
        answer = worker.turn(1)
        row = {"device": device, "threads": threads, "loop": loop, "turns": args.turns}
        row |= {"steps_per_second": f"{statistics.median(speeds[loop]):.2f}"}
        row |= {"lowest": f"{min(speeds[loop]):.2f}", "highest": f"{max(speeds[loop]):.2f}"}
        for name in ("d3rlpy 2.8.1", "plain"):
            # Turn by turn: what slows the machine down for a while slows neighbours alike.
            pairs = zip(speeds[loop], speeds.get(name, []), strict=False)
            ratios = [ours / theirs for ours, theirs in pairs]
            row[f"times_{name.split()[0]}"] = f"{statistics.median(ratios):.2f}" if ratios else ""
        row["peak_megabytes"] = f"{answer['bytes'] / 1e6:.0f}" if "bytes" in answer else ""
        row["data_megabytes"] = f"{answer['data_bytes'] / 1e6:.0f}" if "data_bytes" in answer else ""
        rows.append(row)
        print(*row.values(), sep="\t", flush=True)
        worker.end()
    return rows


class Worker:
    """A process that takes as many gradient steps as a line on its input says, and answers with a line of JSON."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, steps: int) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(steps, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def arrays(n_rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    states = rng.standard_normal((n_rows + 1, OBSERVATIONS), dtype=np.float32)
    return {
        "observations": states[:-1],
        "actions": np.tanh(rng.standard_normal((n_rows, ACTIONS), dtype=np.float32)),
        "rewards": rng.standard_normal(n_rows, dtype=np.float32),
        "next_observations": states[1:],
        "terminations": np.zeros(n_rows, dtype=bool),
        "truncations": np.arange(1, n_rows + 1) % EPISODE == 0,
    }


def work(loop: str, file: str, device: str, threads: str) -> None:
    import torch as th

    th.set_num_threads(int(threads))
    facts: dict[str, float] = {}
    reset_high_water()
    step = products(loop, device) if loop.startswith("products") else learner(loop, file, device, facts)
    for line in sys.stdin:
        start = time.perf_counter()
        step(int(line))
        if device == "cuda":
            th.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - start, "bytes": high_water(), **facts}), flush=True)


def learner(loop: str, file: str, device: str, facts: dict[str, float]) -> Callable[[int], Any]:
    from gymnasium import spaces
    from plain_bear import PlainBEAR

    from sb3_pg_extras import BEAR

    with np.load(file) as content:
        box = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
        dataset = OfflineDataset(**content, observation_space=box, action_space=spaces.Box(-1, 1, (ACTIONS,), np.float32))
    facts["data_bytes"] = sum(getattr(dataset, name).nbytes for name in content.files)
    kwargs: dict[str, Any] = {"warmup_steps": 0, "seed": 0, "device": device}
    if "bf16" in loop:
        kwargs["precision"] = "bf16"
    if "frozen" in loop:
        kwargs["behavior_steps"] = 1
    model = (PlainBEAR if loop == "plain" else BEAR)("MlpPolicy", None, dataset, **kwargs)
    del dataset
    return lambda steps: model.learn(steps, log_interval=None, reset_num_timesteps=False)


def products(loop: str, device: str) -> Callable[[int], None]:
    """Nothing but a joint step's matrix products: forward, and backward to weights and to inputs where they are needed."""
    import torch as th

    dtype = th.bfloat16 if "bf16" in loop else th.float32
    if "oneDNN" in loop:
        th.set_float32_matmul_precision("medium")

    def mlp(inputs: int, hidden: int, outputs: int) -> list[tuple[int, int]]:
        return [(inputs, hidden), (hidden, hidden), (hidden, outputs)]

    both = OBSERVATIONS + ACTIONS
    actor, critic = mlp(OBSERVATIONS, HIDDEN, 2 * ACTIONS), mlp(both, HIDDEN, 1)
    encoder, decoder = mlp(both, VAE_HIDDEN, 2 * LATENT), mlp(OBSERVATIONS + LATENT, VAE_HIDDEN, ACTIONS)
    # (rows, layers, products per layer: 1 forward, 2 with one backward, 3 with both)
    passes = [(BATCH, encoder, 3), (BATCH, decoder, 3)]
    passes += [(BATCH, actor, 1), *[(BATCH * N_TARGET, critic, 1)] * 2, *[(BATCH, critic, 3)] * 2]
    passes += [(BATCH, actor, 3), (BATCH * N_MMD, decoder, 1), *[(BATCH, critic, 2)] * 2]
    jobs = []
    for rows, layers, count in passes:
        for inputs, outputs in layers:
            x, w, g = (
                th.randn(shape, device=device, dtype=dtype) for shape in ((rows, inputs), (inputs, outputs), (rows, outputs))
            )
            jobs += [(x, w), (g, w.t()), (x.t(), g)][:count]

    def run(steps: int) -> None:
        with th.no_grad():
            for _ in range(steps):
                for a, b in jobs:
                    th.mm(a, b)

    return run


def plot(rows: list[dict[str, Any]]) -> None:
    """Ratios to d3rlpy where it took part, else to the plain loop."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    column, name = ("times_d3rlpy", "d3rlpy 2.8.1") if any(row["times_d3rlpy"] for row in rows) else ("times_plain", "plain")
    settings = list(dict.fromkeys((row["device"], row["threads"]) for row in rows))
    loops = list(dict.fromkeys(row["loop"] for row in rows))
    figure, axes = plt.subplots(figsize=(7.5, 4))
    for number, (device, threads) in enumerate(settings):
        shown = {row["loop"]: row for row in rows if (row["device"], row["threads"]) == (device, threads) and row[column]}
        places = [loops.index(loop) + 0.8 * (number + 0.5) / len(settings) - 0.4 for loop in shown]
        label = device if device != "cpu" else f"{threads} thread{'s' * (threads > 1)}"
        bars = axes.barh(places, [float(row[column]) for row in shown.values()], 0.8 / len(settings), label=label)
        axes.bar_label(bars, [row[column] for row in shown.values()], padding=2, fontsize=7)
    axes.set_yticks(range(len(loops)), loops)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set(xlabel=f"gradient steps per second, as a multiple of {name}")
    axes.legend()
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=100)


if __name__ == "__main__":
    main()
