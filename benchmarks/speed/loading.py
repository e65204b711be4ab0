"""
Loading datasets, and training from those that stay on disk.

    python benchmarks/speed/loading.py formats [--rows 1000000] [--turns 5]
    python benchmarks/speed/loading.py disk [--gigabytes 20] [--turns 5] [--folder FOLDER]

``formats``: time and memory of loading transitions of Hopper's size, against h5py reading the same arrays. Each measurement
is a process of its own; memory is its peak above what it had after its imports, as a share of the file's arrays. "Floor" is
what any loader has to do: read the arrays, copy the observations into next observations where the file has none, and look
once at each number. ``disk``: BEAR on random numbers of Humanoid-v5's size, as an uncompressed ``.npz`` (memory-mapped) and
as parquet files (sharded), in turns with the same networks on data in memory; before each turn the files are evicted from
the system's cache. FOLDER needs room for one of them at a time; memory is the peak of the whole process.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch as th
from gymnasium import Env, spaces
from turns import EPISODE, FIELDS, Worker, random_field, ratio, reset_peak, serve, take_turns, write

from sb3_pg_extras import BEAR, load_dataset

LAYOUTS = ("d4rl", "d4rl-gzip", "d4rl-gzip-next", "d3rlpy", "robomimic", "robomimic-next")
# Humanoid-v5's.
OBSERVATIONS, ACTIONS = 348, 17
ROWS_AT_ONCE, STEPS_PER_TURN = 50_000, 100


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
        (read if args.what == "formats" else train)(*args.work)
    else:
        (formats if args.what == "formats" else disk)(args)


def worker(*arguments: str) -> Worker:
    """:return: This program in a process of its own."""
    return Worker([sys.executable, __file__, arguments[0], "--work", *arguments[1:]])


def formats(args: argparse.Namespace) -> None:
    rows = []
    for layout in LAYOUTS:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path, memory = Path(folder) / f"{layout}.h5", {"h5py": 0.0, "floor": 0.0, "load_dataset": 0.0}
            n_bytes = write_hdf5(path, layout, args.rows)

            def measure(how: str, path: Path = path, memory: dict[str, float] = memory) -> float:
                reader = worker("formats", str(path), how)
                answer = reader.turn()
                reader.end()
                memory[how] = max(memory[how], answer["peak_bytes"] - answer["bytes_before"])
                return answer["seconds"]

            seconds = take_turns({how: partial(measure, how) for how in memory}, args.turns, warm_up=0)
        figures = {"h5py_seconds": statistics.median(seconds["h5py"]), "seconds": statistics.median(seconds["load_dataset"])}
        figures |= {"ratio": ratio(seconds["load_dataset"], seconds["h5py"])}
        figures |= {"floor_ratio": ratio(seconds["floor"], seconds["h5py"]), "memory": memory["load_dataset"] / n_bytes}
        row = {"file": layout, "megabytes": f"{n_bytes / 1e6:.0f}"}
        rows.append(row | {name: f"{figure:.3f}" for name, figure in figures.items()})
    write("load_speed", rows)


def write_hdf5(path: Path, layout: str, n_rows: int) -> int:
    """:return: Bytes of the arrays in the file."""
    fields = {name: random_field(name, n_rows, 11, 3) for name in FIELDS}
    fields["terminals"], fields["timeouts"] = fields.pop("terminations"), fields.pop("truncations")
    if not layout.endswith("next"):
        del fields["next_observations"]
    arrays = fields if layout.startswith("d4rl") else {}
    for i in range(0 if arrays else n_rows // EPISODE):
        own = {name: field[i * EPISODE : (i + 1) * EPISODE] for name, field in fields.items()}
        if layout == "d3rlpy":
            arrays |= {f"{name}_{i}": own[name].reshape(EPISODE, -1) for name in ("observations", "actions", "rewards")}
            arrays |= {f"terminated_{i}": np.array(i % 2 == 1), "num_episodes": np.array(n_rows // EPISODE)}
        else:
            names = {"obs/state": "observations", "next_obs/state": "next_observations", "dones": "timeouts"}
            names |= {"actions": "actions", "rewards": "rewards"}
            arrays |= {f"data/demo_{i}/{name}": own[field] for name, field in names.items() if field in own}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip" if "gzip" in layout else None)
    return sum(array.nbytes for array in arrays.values())


def read(path: str, how: str) -> None:
    """In a process of its own."""

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
        assert all(np.isfinite(array.min()) and np.isfinite(array.max()) for array in arrays if array.dtype.kind == "f")
        return arrays

    Path(path).read_bytes()  # into the page cache
    works: dict[str, Any] = {"h5py": read_all, "floor": floor, "load_dataset": lambda: load_dataset(path)}
    serve(lambda _: works[how](), bytes_before=reset_peak())


def disk(args: argparse.Namespace) -> None:
    rows = []
    for how, write_data in (("memory-mapped .npz", write_npz), ("sharded parquet", write_parquet)):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            small, large = Path(folder) / "small.npz", Path(folder) / "large"
            write_npz(small, ROWS_AT_ONCE)
            bytes_per_row = 4 * (OBSERVATIONS * (2 if write_data is write_npz else 1) + ACTIONS + 1)
            n_rows = int(args.gigabytes * 1e9 / bytes_per_row) // ROWS_AT_ONCE * ROWS_AT_ONCE
            large.mkdir()
            source = write_data(large / "0.npz", n_rows)
            files = sorted(large.iterdir())
            workers = {"memory": worker("disk", str(small)), "disk": worker("disk", source)}

            def measure(which: Worker, files: list[Path] = files) -> float:
                for path in files:
                    with open(path, "rb") as file:  # evict it from the system's cache (Linux)
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return which.speed(STEPS_PER_TURN)

            speeds = take_turns({name: partial(measure, which) for name, which in workers.items()}, args.turns)
            answer = workers["disk"].turn()
            figures = {
                "gigabytes": sum(file.stat().st_size for file in files) / 1e9,
                "seconds_to_open": answer["seconds_to_open"],
                "resident_gigabytes": answer["peak_bytes"] / 1e9,
                "steps_per_second": statistics.median(speeds["disk"]),
                "in_memory_steps_per_second": statistics.median(speeds["memory"]),
                "of_in_memory": ratio(speeds["disk"], speeds["memory"]),
            }
            rows.append(
                {"source": how, "transitions": n_rows, **{name: f"{figure:.3g}" for name, figure in figures.items()}}
            )
            for which in workers.values():
                which.end()
    write("bigger_than_memory", rows)


class Stands(Env[Any, Any]):
    """An environment that gives its spaces."""

    observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATIONS,), np.float32)
    action_space = spaces.Box(-1, 1, (ACTIONS,), np.float32)


def train(source: str) -> None:
    """In a process of its own."""
    th.set_num_threads(1)
    start = time.perf_counter()
    model = BEAR("MlpPolicy", Stands(), source, warmup_fraction=0, seed=0, device="cpu")
    seconds = time.perf_counter() - start
    serve(lambda steps: model.learn(steps, log_interval=None), seconds_to_open=seconds)


block = partial(random_field, n_rows=ROWS_AT_ONCE, n_observations=OBSERVATIONS, n_actions=ACTIONS)


def write_npz(path: Path, n_rows: int) -> str:
    """One array after the other, as numpy.savez would write them, but never whole in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in FIELDS:
            example = block(name)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": example.dtype.str, "fortran_order": False, "shape": (n_rows, *example.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, n_rows, ROWS_AT_ONCE):
                    file.write(block(name, seed=start).data)
    return str(path)


def write_parquet(path: Path, n_rows: int) -> str:
    for start in range(0, n_rows, ROWS_AT_ONCE):
        row = np.arange(start, start + ROWS_AT_ONCE)
        fields = {
            "observation.state": pa.FixedSizeListArray.from_arrays(block("observations", seed=start).ravel(), OBSERVATIONS),
            "action": pa.FixedSizeListArray.from_arrays(block("actions", seed=start).ravel(), ACTIONS),
            "next.reward": block("rewards", seed=start), "next.done": block("terminations"),
            "next.truncated": block("truncations"), "episode_index": row // EPISODE, "frame_index": row % EPISODE,
        }  # fmt: skip
        options = {"compression": "none", "use_dictionary": False, "row_group_size": 5 * EPISODE}
        pq.write_table(pa.table(fields), path.with_name(f"{start:09d}.parquet"), **options)
    return f"sharded:{path.parent}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
