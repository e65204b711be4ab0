"""
Loading datasets, and training from those that stay on disk.

    python benchmarks/speed/loading.py formats [--rows 1000000] [--turns 5]
    python benchmarks/speed/loading.py disk [--gigabytes 20] [--turns 5] [--folder FOLDER]

``formats``: time and memory of loading transitions of Hopper's size, against h5py reading the same arrays. Each measurement is
a process of its own; memory is its peak above what it had after its imports, as a share of the file's arrays. "Floor" is what
any loader has to do: read the arrays, copy the observations into next observations where the file has none, and look once at
each number. ``disk``: BEAR on random numbers of Humanoid-v5's size, as an uncompressed ``.npz`` (memory-mapped) and as parquet
files (sharded), taking turns with the same networks on data in memory; before each turn the files are evicted from the
system's cache. FOLDER needs room for one of them at a time; memory is the peak of the whole process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from turns import Worker, peak_bytes, ratio, reset_peak, serve, take_turns, write

EPISODE = 1000
LAYOUTS = ("d4rl", "d4rl-gzip", "d4rl-gzip-next", "d3rlpy", "robomimic", "robomimic-next")
OBSERVATIONS, ACTIONS = 348, 17
ROWS_AT_ONCE, STEPS_PER_TURN, IN_MEMORY_ROWS = 50_000, 100, 50_000
WIDTHS = {"observations": (OBSERVATIONS,), "actions": (ACTIONS,), "rewards": (), "next_observations": (OBSERVATIONS,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("formats", "disk"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where there is room, by default the system's temporary folder")
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        read_once(*args.work) if args.what == "formats" else train(*args.work)
        return
    (formats if args.what == "formats" else disk)(args)


def formats(args: argparse.Namespace) -> None:
    rows = []
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / f"{layout}.h5"
            n_bytes = write_hdf5(path, layout, args.rows)
            memory: dict[str, float] = {}

            def measure(how: str, path: Path = path, memory: dict[str, float] = memory) -> float:
                command = [sys.executable, __file__, "formats", "--work", str(path), how]
                answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                memory[how] = max(memory.get(how, 0), answer["bytes"])
                return answer["seconds"]

            seconds = take_turns({how: partial(measure, how) for how in ("h5py", "floor", "load_dataset")}, args.turns, 0)
        row = {"file": layout, "megabytes": f"{n_bytes / 1e6:.0f}"}
        figures = {
            "h5py_seconds": statistics.median(seconds["h5py"]), "seconds": statistics.median(seconds["load_dataset"]),
            "ratio": ratio(seconds["load_dataset"], seconds["h5py"]), "floor_ratio": ratio(seconds["floor"], seconds["h5py"]),
            "h5py_memory": memory["h5py"] / n_bytes, "memory": memory["load_dataset"] / n_bytes,
        }  # fmt: skip
        rows.append(row | {name: f"{figure:.3f}" for name, figure in figures.items()})
    write("load_speed", rows)


def write_hdf5(path: Path, layout: str, n_rows: int) -> int:
    """:return: Bytes of the arrays that are read."""
    import h5py

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
    episodes = [slice(start, start + EPISODE) for start in range(0, n_rows, EPISODE)]
    with h5py.File(path, "w") as file:
        if layout.startswith("d4rl"):
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip" if "gzip" in layout else None)
            return n_bytes
        if layout == "d3rlpy":
            file["num_episodes"] = len(episodes)
            for i, rows in enumerate(episodes):
                for name in ("observations", "actions", "rewards"):
                    file[f"{name}_{i}"] = arrays[name][rows].reshape(EPISODE, -1)
                file[f"terminated_{i}"] = bool(i % 2)
            return n_bytes - 2 * n_rows
        for i, rows in enumerate(episodes):
            demo = file.create_group(f"data/demo_{i}")
            demo["actions"], demo["rewards"] = arrays["actions"][rows], arrays["rewards"][rows]
            demo["dones"], demo["obs/state"] = np.arange(EPISODE) == EPISODE - 1, arrays["observations"][rows]
            if "next_observations" in arrays:
                demo["next_obs/state"] = arrays["next_observations"][rows]
        return n_bytes - n_rows


def read_once(path: str, how: str) -> None:
    """In a process of its own."""
    import h5py

    from sb3_pg_extras import load_dataset

    def read_all() -> list[np.ndarray]:
        arrays: list[np.ndarray] = []
        with h5py.File(path, "r") as file:
            file.visititems(lambda _, item: arrays.append(item[()]) if isinstance(item, h5py.Dataset) else None)
        return arrays

    def floor() -> list[np.ndarray]:
        arrays = read_all()
        if "next" not in path:
            width = max(array.shape[1] for array in arrays if array.ndim == 2)
            arrays += [array[1:].copy() for array in arrays if array.ndim == 2 and array.shape[1] == width]
        assert all(np.isfinite(a.min()) and np.isfinite(a.max()) for a in arrays if a.dtype.kind == "f")
        return arrays

    with open(path, "rb") as file:  # into the page cache
        while file.read(1 << 16):
            pass
    before, start = reset_peak(), time.perf_counter()
    result: Any = load_dataset(path) if how == "load_dataset" else {"h5py": read_all, "floor": floor}[how]()
    print(json.dumps({"seconds": time.perf_counter() - start, "bytes": peak_bytes() - before}))
    del result


def disk(args: argparse.Namespace) -> None:
    rows = []
    for how, write_data in (("memory-mapped .npz", write_npz), ("sharded parquet", write_parquet)):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            small, large = Path(folder) / "small.npz", Path(folder) / "large.npz"
            write_npz(small, IN_MEMORY_ROWS)
            bytes_per_row = 4 * (OBSERVATIONS * (2 if write_data is write_npz else 1) + ACTIONS + 1)
            n_rows = write_data(large, int(args.gigabytes * 1e9 / bytes_per_row))
            files = [large] if large.is_file() else sorted(large.iterdir())
            source = str(large) if large.is_file() else f"sharded:{large}"
            workers = {
                name: Worker([sys.executable, __file__, "disk", "--work", data])
                for name, data in (("memory", str(small)), ("disk", source))
            }

            def measure(worker: Worker, files: list[Path] = files) -> float:
                for path in files:
                    with open(path, "rb") as file:  # out of the system's cache (Linux)
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return STEPS_PER_TURN / worker.turn(STEPS_PER_TURN)["seconds"]

            speeds = take_turns({name: partial(measure, worker) for name, worker in workers.items()}, args.turns)
            answer = workers["disk"].turn(1)
            gigabytes = sum(file.stat().st_size for file in files) / 1e9
            figures = {
                "seconds_to_open": answer["seconds_to_open"], "resident_gigabytes": answer["peak_bytes"] / 1e9,
                "steps_per_second": statistics.median(speeds["disk"]),
                "in_memory_steps_per_second": statistics.median(speeds["memory"]),
                "of_in_memory": ratio(speeds["disk"], speeds["memory"]),
            }  # fmt: skip
            row = {"source": how, "gigabytes": f"{gigabytes:.1f}", "transitions": n_rows}
            rows.append(row | {name: f"{figure:.2f}" for name, figure in figures.items()})
            for worker in workers.values():
                worker.end()
    write("bigger_than_memory", rows)


def train(source: str) -> None:
    """In a process of its own."""
    import torch as th
    from gymnasium import Env, spaces

    from sb3_pg_extras import BEAR

    class Stands(Env):
        observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
        action_space = spaces.Box(-1, 1, (ACTIONS,), np.float32)

    th.set_num_threads(1)
    start = time.perf_counter()
    model = BEAR("MlpPolicy", Stands(), source, warmup_steps=0, seed=0, device="cpu")
    facts = {"seconds_to_open": time.perf_counter() - start}
    serve(lambda steps: model.learn(steps, log_interval=None), facts)


def block(name: str, start: int) -> np.ndarray:
    """:return: Rows of one field from ``start`` on: random numbers, and episodes that time out."""
    if name not in WIDTHS:
        return (np.arange(start + 1, start + ROWS_AT_ONCE + 1) % EPISODE == 0) & (name == "truncations")
    shape = (ROWS_AT_ONCE, *WIDTHS[name])
    return np.tanh(np.random.default_rng(start).standard_normal(shape, dtype=np.float32))


def write_npz(path: Path, n_rows: int) -> int:
    """One array after the other, as numpy.savez would write them, but never whole in memory."""
    n_rows -= n_rows % ROWS_AT_ONCE
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in (*WIDTHS, "terminations", "truncations"):
            example = block(name, 0)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": example.dtype.str, "fortran_order": False, "shape": (n_rows, *example.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, n_rows, ROWS_AT_ONCE):
                    file.write(block(name, start).data)
    return n_rows


def write_parquet(folder: Path, n_rows: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    n_rows -= n_rows % ROWS_AT_ONCE
    for start in range(0, n_rows, ROWS_AT_ONCE):
        row = np.arange(start, start + ROWS_AT_ONCE)
        fields = {
            "observation.state": pa.FixedSizeListArray.from_arrays(block("observations", start).ravel(), OBSERVATIONS),
            "action": pa.FixedSizeListArray.from_arrays(block("actions", start).ravel(), ACTIONS),
            "next.reward": block("rewards", start), "next.done": block("terminations", start),
            "next.truncated": block("truncations", start), "episode_index": row // EPISODE, "frame_index": row % EPISODE,
        }  # fmt: skip
        options = {"compression": "none", "use_dictionary": False, "row_group_size": 5 * EPISODE}
        pq.write_table(pa.table(fields), folder / f"{start:09d}.parquet", **options)
    return n_rows


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
