"""
Time and memory of loading 1 M transitions of Hopper's size, against h5py reading the same arrays.

    python benchmarks/load_speed.py [--rows 1000000] [--repeats 5]

writes ``benchmarks/results/load_speed.csv``. Each measurement is a process of its own; memory is its high water above what
it had after its imports, as a share of the file's arrays in float32. "Floor" is what any loader has to do: read the arrays
with h5py, copy the observations into next observations where the file has none, and look once at each number.
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
from pathlib import Path

import h5py
import numpy as np

EPISODE = 1000
RESULTS = Path(__file__).parent / "results" / "load_speed.csv"
LAYOUTS = ("d4rl", "d4rl-gzip", "d4rl-gzip-next", "d3rlpy", "robomimic", "robomimic-next")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "HOW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    RESULTS.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open(RESULTS, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "megabytes", "h5py_seconds", "seconds", "ratio", "floor_ratio", "h5py_memory", "memory"])
        for layout in LAYOUTS:
            path = Path(folder) / f"{layout}.h5"
            n_bytes = write(path, layout, args.rows)
            # Alternating, so that a machine that slows down slows both.
            runs = [{how: run(path, how) for how in ("h5py", "floor", "load_dataset")} for _ in range(args.repeats)]
            seconds = {how: statistics.median(r[how]["seconds"] for r in runs) for how in runs[0]}
            memory = {how: max(r[how]["bytes"] for r in runs) / n_bytes for how in runs[0]}
            ratio = statistics.median(r["load_dataset"]["seconds"] / r["h5py"]["seconds"] for r in runs)
            floor = statistics.median(r["floor"]["seconds"] / r["h5py"]["seconds"] for r in runs)
            figures = (seconds["h5py"], seconds["load_dataset"], ratio, floor, memory["h5py"], memory["load_dataset"])
            row = [layout, f"{n_bytes / 1e6:.0f}", *(f"{figure:.3f}" for figure in figures)]
            writer.writerow(row)
            print(*row, sep="\t", flush=True)
            path.unlink()


def write(path: Path, layout: str, n_rows: int) -> int:
    """:return: Bytes of the arrays that are read."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(n_rows + 1, 11)).astype(np.float32)
    arrays = {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, (n_rows, 3)).astype(np.float32),
        "rewards": rng.normal(size=n_rows).astype(np.float32),
        "terminals": rng.random(n_rows) < 0.001,
        "timeouts": np.arange(1, n_rows + 1) % EPISODE == 0,
    }
    if layout.endswith("next"):
        arrays["next_observations"] = states[1:]
    n_bytes = sum(array.nbytes for array in arrays.values())
    with h5py.File(path, "w") as file:
        if layout.startswith("d4rl"):
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip" if "gzip" in layout else None)
        elif layout == "d3rlpy":
            file["num_episodes"] = n_rows // EPISODE
            for i, rows in enumerate(episodes(n_rows)):
                for name in ("observations", "actions", "rewards"):
                    file[f"{name}_{i}"] = arrays[name][rows].reshape(EPISODE, -1)
                file[f"terminated_{i}"] = bool(i % 2)
            n_bytes -= 2 * n_rows
        else:
            for i, rows in enumerate(episodes(n_rows)):
                demo = file.create_group(f"data/demo_{i}")
                demo["actions"], demo["rewards"] = arrays["actions"][rows], arrays["rewards"][rows]
                demo["dones"] = np.arange(EPISODE) == EPISODE - 1
                demo["obs/state"] = arrays["observations"][rows]
                if "next_observations" in arrays:
                    demo["next_obs/state"] = arrays["next_observations"][rows]
            n_bytes -= n_rows
    return n_bytes


def episodes(n_rows: int) -> list[slice]:
    return [slice(start, start + EPISODE) for start in range(0, n_rows, EPISODE)]


def run(path: Path, how: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(path), how]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(path: str, how: str) -> dict[str, float]:
    if how == "load_dataset":
        from sb3_pg_extras import load_dataset as read
    else:
        read = {"h5py": read_all, "floor": read_copy_and_check}[how]
    with open(path, "rb") as file:  # into the page cache
        while file.read(1 << 16):
            pass
    before = reset_high_water()
    start = time.perf_counter()
    result = read(path)
    seconds = time.perf_counter() - start
    used = high_water() - before
    del result
    return {"seconds": seconds, "bytes": used}


def read_all(path: str) -> list[np.ndarray]:
    """Every array of the file, as plain h5py reads it."""
    arrays = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return arrays


def read_copy_and_check(path: str) -> list[np.ndarray]:
    arrays = read_all(path)
    if "next" not in path:
        width = max(array.shape[1] for array in arrays if array.ndim == 2)
        arrays += [array[1:].copy() for array in arrays if array.ndim == 2 and array.shape[1] == width]
    for array in arrays:
        if array.dtype.kind == "f":
            assert np.isfinite(array.min()) and np.isfinite(array.max())
    return arrays


def reset_high_water() -> int:
    """Start measuring anew (Linux), from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def high_water() -> int:
    """Peak resident bytes of this process since :func:`reset_high_water`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
