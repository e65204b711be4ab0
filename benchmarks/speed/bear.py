"""
How fast a gradient step of BEAR is: ``python benchmarks/speed/bear.py [--d3rlpy PYTHON] [--threads 1 2] [--turns 7]``.

The data are random numbers of Hopper-v5's size, the networks the default ones, the batch 256; a step includes drawing its
batch. PYTHON is that of a virtual environment with d3rlpy 2.8.1, which needs an older gymnasium than ours (``make
benchmark`` makes it). With a GPU, the same loops there too. "Plain" is ``tests/bear/plain_bear.py``.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from turns import Worker, ratio, reset_peak, serve, summary, take_turns, write

OBSERVATIONS, ACTIONS, BATCH, HIDDEN, VAE_HIDDEN, LATENT = 11, 3, 256, 256, 750, 6
N_TARGET, N_MMD, EPISODE = 10, 4, 1000
ROOT = Path(__file__).parent.parent.parent
D3RLPY = "d3rlpy 2.8.1"
# Loop -> gradient steps in one turn.
LOOPS = {
    D3RLPY: 25, "plain": 25, "BEAR": 30, "BEAR, bf16": 50, "BEAR, behaviour frozen": 100,
    "BEAR, behaviour frozen, bf16": 150, "products only, MKL": 50, "products only, oneDNN": 50, "products only, bf16": 80,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d3rlpy", help="the Python of a virtual environment with d3rlpy 2.8.1")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--work", nargs=4, metavar=("LOOP", "FILE", "DEVICE", "THREADS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(*args.work)
        return
    import torch as th

    settings = [("cpu", threads) for threads in args.threads] + [("cuda", 1)] * th.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "data.npz"
        np.savez(file, **arrays(args.rows))
        write("bear_speed", [row for setting in settings for row in measure(args, str(file), *setting)])


def measure(args: argparse.Namespace, file: str, device: str, threads: int) -> list[dict[str, Any]]:
    import torch as th

    from sb3_pg_extras.fast.matmuls import has_bf16

    here = [loop for loop in LOOPS if loop != D3RLPY and ("bf16" not in loop or has_bf16(th.device(device)))]
    workers = {loop: Worker([sys.executable, __file__, "--work", loop, file, device, str(threads)]) for loop in here}
    if args.d3rlpy and device == "cpu":
        script = ROOT / "benchmarks" / "references" / "d3rlpy_bear.py"
        workers = {D3RLPY: Worker([args.d3rlpy, str(script), file, str(threads)]), **workers}
    loops = {loop: partial(lambda w, n: n / w.turn(n)["seconds"], worker, LOOPS[loop]) for loop, worker in workers.items()}
    speeds = take_turns(loops, args.turns)
    rows = []
    for loop, worker in workers.items():
        answer = worker.turn(1)
        row = {"device": device, "threads": threads, "loop": loop, "turns": args.turns}
        row |= summary("steps_per_second", speeds[loop], 2)
        row["times_d3rlpy"] = f"{ratio(speeds[loop], speeds[D3RLPY]):.2f}" if D3RLPY in speeds else ""
        row["times_plain"] = f"{ratio(speeds[loop], speeds['plain']):.2f}"
        for column, name in (("peak_megabytes", "peak_bytes"), ("data_megabytes", "data_bytes")):
            row[column] = f"{answer[name] / 1e6:.0f}" if name in answer else ""
        rows.append(row)
        worker.end()
    return rows


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
    """In a process of its own."""
    import torch as th

    th.set_num_threads(int(threads))
    reset_peak()
    step, facts = products(loop, device) if loop.startswith("products") else learner(loop, file, device)

    def synchronised(steps: int) -> None:
        step(steps)
        if device == "cuda":
            th.cuda.synchronize()

    serve(synchronised, **facts)


def learner(loop: str, file: str, device: str) -> tuple[Callable[[int], Any], dict[str, float]]:
    from gymnasium import spaces

    from sb3_pg_extras import BEAR, OfflineDataset

    with np.load(file) as content:
        box = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
        dataset = OfflineDataset(**content, observation_space=box, action_space=spaces.Box(-1, 1, (ACTIONS,), np.float32))
    facts = {"data_bytes": sum(getattr(dataset, name).nbytes for name in content.files)}
    algorithm: Any = BEAR
    if loop == "plain":
        from tests.bear.plain_bear import PlainBEAR as algorithm
    kwargs = {"precision": "bf16"} if "bf16" in loop else {}
    kwargs |= {"behavior_steps": 1} if "frozen" in loop else {}
    model = algorithm("MlpPolicy", None, dataset, warmup_steps=0, seed=0, device=device, **kwargs)
    del dataset
    return lambda steps: model.learn(steps, log_interval=None, reset_num_timesteps=False), facts


def products(loop: str, device: str) -> tuple[Callable[[int], None], dict[str, float]]:
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
            shapes = ((rows, inputs), (inputs, outputs), (rows, outputs))
            x, w, g = (th.randn(shape, device=device, dtype=dtype) for shape in shapes)
            jobs += [(x, w), (g, w.t()), (x.t(), g)][:count]

    def run(steps: int) -> None:
        with th.no_grad():
            for _ in range(steps):
                for a, b in jobs:
                    th.mm(a, b)

    return run, {}


if __name__ == "__main__":
    main()
