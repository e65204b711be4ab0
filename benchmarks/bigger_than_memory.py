"""
BEAR on a dataset that stays on disk, against the same networks on one in memory.

    python benchmarks/bigger_than_memory.py [--gigabytes 20] [--turns 5] [--folder FOLDER]

writes ``benchmarks/results/bigger_than_memory.csv``. The data are random numbers of Humanoid-v5's size, once as an
uncompressed ``.npz`` (memory-mapped) and once as parquet files (streamed); FOLDER needs room for one of them at a time. Two
processes take turns; before each turn the files are evicted from the system's cache, so that every row comes from the disk.
Resident memory is the high water mark of the whole process, PyTorch included.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from load_speed import high_water

from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS

OBSERVATIONS, ACTIONS, EPISODE = 348, 17, 1000
ROWS_AT_ONCE, SHARD = 20_000, 200_000
STEPS_PER_TURN, IN_MEMORY_ROWS = 100, 50_000
RESULTS = Path(__file__).parent / "results" / "bigger_than_memory.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where there is room, by default the system's temporary folder")
    parser.add_argument("--work", metavar="SOURCE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args.work)
        return
    rows = []
    for how, write in (("memory-mapped .npz", write_npz), ("streamed parquet", write_parquet)):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            small, source = Path(folder) / "small.npz", Path(folder) / "large.npz"
            write_npz(small, IN_MEMORY_ROWS)
            start = time.perf_counter()
            bytes_per_row = 4 * (OBSERVATIONS * (2 if write is write_npz else 1) + ACTIONS + 1)
            n_rows = write(source, int(args.gigabytes * 1e9 / bytes_per_row))
            files = [source] if source.is_file() else sorted(source.iterdir())
            gigabytes = sum(file.stat().st_size for file in files) / 1e9
            print(f"{how}: {gigabytes:.1f} GB written in {time.perf_counter() - start:.0f} s", flush=True)
            rows.append({"source": how, "gigabytes": f"{gigabytes:.1f}", "transitions": n_rows})
            rows[-1] |= compare(str(small), str(source) if source.is_file() else f"stream:{source}", files, args.turns)
            print(rows[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    with open(RESULTS, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def compare(small: str, large: str, files: list[Path], turns: int) -> dict[str, str]:
    workers = {name: Worker(source) for name, source in (("memory", small), ("disk", large))}
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(turns):
        for name, worker in workers.items():
            for path in files:
                evict(path)
            seconds[name].append(worker.turn()["seconds"])
    speed = {name: STEPS_PER_TURN / statistics.median(times) for name, times in seconds.items()}
    resident = {name: worker.turn()["resident"] / 1e9 for name, worker in workers.items()}
    for worker in workers.values():
        worker.end()
    return {
        "seconds_to_open": f"{workers['disk'].seconds_to_open:.1f}",
        "resident_gigabytes": f"{resident['disk']:.2f}",
        "steps_per_second": f"{speed['disk']:.2f}",
        "in_memory_steps_per_second": f"{speed['memory']:.2f}",
        "ratio": f"{speed['disk'] / speed['memory']:.3f}",
    }


class Worker:
    """A process that trains a little whenever it is told to."""

    def __init__(self, source: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.seconds_to_open = self._answer()["seconds"]

    def turn(self) -> dict[str, float]:
        assert self.process.stdin is not None
        print("go", file=self.process.stdin, flush=True)
        return self._answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def work(source: str) -> None:
    import torch as th
    from gymnasium import Env, spaces

    from sb3_pg_extras import BEAR

    class Stands(Env):
        observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
        action_space = spaces.Box(-1, 1, (ACTIONS,), np.float32)

    th.set_num_threads(1)
    start = time.perf_counter()
    model = BEAR("MlpPolicy", Stands(), source, warmup_steps=0, seed=0, device="cpu")
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
    model.learn(5)
    for _ in sys.stdin:
        start = time.perf_counter()
        model.learn(STEPS_PER_TURN, log_interval=None)
        print(json.dumps({"seconds": time.perf_counter() - start, "resident": high_water()}), flush=True)


def columns(n_rows: int, names: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """Some rows at a time, whole episodes that time out; the named columns only, each the same whatever the others are."""
    states, actions, rewards = (np.random.default_rng(seed) for seed in range(3))
    for start in range(0, n_rows, ROWS_AT_ONCE):
        part: dict[str, np.ndarray] = {}
        if {"observations", "next_observations"} & set(names):
            trajectory = states.standard_normal((ROWS_AT_ONCE + 1, OBSERVATIONS), dtype=np.float32)
            part |= {"observations": trajectory[:-1], "next_observations": trajectory[1:]}
        if "actions" in names:
            part["actions"] = np.tanh(actions.standard_normal((ROWS_AT_ONCE, ACTIONS), dtype=np.float32))
        if "rewards" in names:
            part["rewards"] = rewards.standard_normal(ROWS_AT_ONCE, dtype=np.float32)
        part["terminations"] = np.zeros(ROWS_AT_ONCE, dtype=bool)
        part["truncations"] = np.arange(start + 1, start + ROWS_AT_ONCE + 1) % EPISODE == 0
        yield part


def write_npz(path: Path, n_rows: int) -> int:
    """One array after the other, as numpy.savez would write them, but never whole in memory."""
    n_rows -= n_rows % ROWS_AT_ONCE
    example = next(columns(ROWS_AT_ONCE, ARRAY_FIELDS))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in example.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": array.dtype.str, "fortran_order": False, "shape": (n_rows, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                for part in columns(n_rows, [name]):
                    file.write(np.ascontiguousarray(part[name]).data)
    return n_rows


def write_parquet(folder: Path, n_rows: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    n_rows -= n_rows % ROWS_AT_ONCE
    writer = None
    for number, part in enumerate(columns(n_rows, ["observations", "actions", "rewards"])):
        row = number * ROWS_AT_ONCE + np.arange(ROWS_AT_ONCE)
        state, action = part["observations"], part["actions"]
        table = pa.table(
            {
                "observation.state": pa.FixedSizeListArray.from_arrays(state.ravel(), OBSERVATIONS),
                "action": pa.FixedSizeListArray.from_arrays(action.ravel(), ACTIONS),
                "next.reward": part["rewards"],
                "next.done": part["terminations"],
                "next.truncated": part["truncations"],
                "episode_index": row // EPISODE,
                "frame_index": row % EPISODE,
            }
        )
        if number % (SHARD // ROWS_AT_ONCE) == 0:
            if writer is not None:
                writer.close()
            shard = folder / f"{number:06d}.parquet"
            writer = pq.ParquetWriter(shard, table.schema, compression="none", use_dictionary=False)
        assert writer is not None
        writer.write_table(table, row_group_size=5 * EPISODE)
    assert writer is not None
    writer.close()
    return n_rows


def evict(path: Path) -> None:
    """Take a file out of the system's cache (Linux)."""
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
