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

import numpy as np
from turns import Worker, ratio, reset_peak, serve, take_turns, write

EPISODE = 1000
LAYOUTS = ("d4rl", "d4rl-gzip", "d4rl-gzip-next", "d3rlpy", "robomimic", "robomimic-next")
OBSERVATIONS, ACTIONS = 348, 17
WIDTHS = {"observations": (OBSERVATIONS,), "actions": (ACTIONS,), "rewards": (), "next_observations": (OBSERVATIONS,)}
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
        medians = {how: statistics.median(values) for how, values in seconds.items()}
        figures = {"h5py_seconds": medians["h5py"], "seconds": medians["load_dataset"]}
        figures |= {"ratio": ratio(seconds["load_dataset"], seconds["h5py"])}
        figures |= {"floor_ratio": ratio(seconds["floor"], seconds["h5py"])}
        figures |= {"h5py_memory": memory["h5py"] / n_bytes, "memory": memory["load_dataset"] / n_bytes}
        row = {"file": layout, "megabytes": f"{n_bytes / 1e6:.0f}"}
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
    with h5py.File(path, "w") as file:
        if layout.startswith("d4rl"):
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip" if "gzip" in layout else None)
            return n_bytes
        if layout == "d3rlpy":
            file["num_episodes"] = n_rows // EPISODE
        for i in range(n_rows // EPISODE):
            own = {name: array[i * EPISODE : (i + 1) * EPISODE] for name, array in arrays.items()}
            if layout == "d3rlpy":
                for name in ("observations", "actions", "rewards"):
                    file[f"{name}_{i}"] = own[name].reshape(EPISODE, -1)
                file[f"terminated_{i}"] = bool(i % 2)
            else:
                names = {"obs/state": "observations", "next_obs/state": "next_observations"}
                names |= {"actions": "actions", "rewards": "rewards", "dones": "timeouts"}
                for name, field in names.items():
                    if field in own:
                        file[f"data/demo_{i}/{name}"] = own[field]
        return n_bytes - n_rows * (2 if layout == "d3rlpy" else 1)


def read(path: str, how: str) -> None:
    """In a process of its own."""
    import h5py

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

    with open(path, "rb") as file:  # into the page cache
        while file.read(1 << 16):
            pass
    if how == "load_dataset":
        from sb3_pg_extras import load_dataset
    works: dict[str, Any] = {"h5py": read_all, "floor": floor, "load_dataset": lambda: load_dataset(path)}
    serve(lambda _: works[how](), bytes_before=reset_peak())


def disk(args: argparse.Namespace) -> None:
    rows = []
    for how, write_data in (("memory-mapped .npz", write_npz), ("sharded parquet", write_parquet)):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            small, large = Path(folder) / "small.npz", Path(folder) / "large.npz"
            write_npz(small, ROWS_AT_ONCE)
            bytes_per_row = 4 * (OBSERVATIONS * (2 if write_data is write_npz else 1) + ACTIONS + 1)
            n_rows = int(args.gigabytes * 1e9 / bytes_per_row) // ROWS_AT_ONCE * ROWS_AT_ONCE
            write_data(large, n_rows)
            files = [large] if large.is_file() else sorted(large.iterdir())
            source = str(large) if large.is_file() else f"sharded:{large}"
            workers = {"memory": worker("disk", str(small)), "disk": worker("disk", source)}

            def measure(which: Worker, files: list[Path] = files) -> float:
                for path in files:
                    with open(path, "rb") as file:  # out of the system's cache (Linux)
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                return STEPS_PER_TURN / which.turn(STEPS_PER_TURN)["seconds"]

            speeds = take_turns({name: partial(measure, which) for name, which in workers.items()}, args.turns)
            answer, (memory, own) = workers["disk"].turn(), (statistics.median(speeds[name]) for name in workers)
            figures = {"gigabytes": sum(file.stat().st_size for file in files) / 1e9}
            figures |= {"seconds_to_open": answer["seconds_to_open"], "resident_gigabytes": answer["peak_bytes"] / 1e9}
            figures |= {"steps_per_second": own, "in_memory_steps_per_second": memory}
            figures |= {"of_in_memory": ratio(speeds["disk"], speeds["memory"])}
            rows.append(
                {"source": how, "transitions": n_rows, **{name: f"{figure:.3g}" for name, figure in figures.items()}}
            )
            for which in workers.values():
                which.end()
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
    seconds = time.perf_counter() - start
    serve(lambda steps: model.learn(steps, log_interval=None), seconds_to_open=seconds)


def block(name: str, start: int) -> np.ndarray:
    """:return: Rows of one field from ``start`` on: random numbers, and episodes that time out."""
    if name not in WIDTHS:
        return (np.arange(start + 1, start + ROWS_AT_ONCE + 1) % EPISODE == 0) & (name == "truncations")
    shape = (ROWS_AT_ONCE, *WIDTHS[name])
    return np.tanh(np.random.default_rng(start).standard_normal(shape, dtype=np.float32))


def write_npz(path: Path, n_rows: int) -> None:
    """One array after the other, as numpy.savez would write them, but never whole in memory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in (*WIDTHS, "terminations", "truncations"):
            example = block(name, 0)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                header = {"descr": example.dtype.str, "fortran_order": False, "shape": (n_rows, *example.shape[1:])}
                np.lib.format.write_array_header_1_0(file, header)
                for start in range(0, n_rows, ROWS_AT_ONCE):
                    file.write(block(name, start).data)


def write_parquet(folder: Path, n_rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
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


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
