"""
A thousand broken files: each is a valid dataset all the same, or ends in one DatasetError that names it, and runs nothing.

What each format refuses by name is tested with the format; here hypothesis breaks them in ways that nobody thought of.
"""

import builtins
import json
import os
import pickle
import posix
import shutil
import time
import tracemalloc
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_arrays
from five_episodes import (
    ACTION_SPACE,
    IMITATION,
    change_imitation,
    content_of,
    fill,
    frames,
    with_values,
    write,
    write_formats,
)
from gymnasium import spaces
from hostile import JUNK, assert_loads_or_is_refused, broken_arrays, broken_files, broken_json, spliced_pickle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets import save_dataset
from sb3_pg_extras.datasets.readers.hdf5 import load_hdf5
from sb3_pg_extras.datasets.readers.imitation import load_imitation
from sb3_pg_extras.datasets.readers.minari import load_minari
from sb3_pg_extras.datasets.readers.npz import load_npz
from sb3_pg_extras.datasets.readers.parquet import load_parquet
from sb3_pg_extras.datasets.readers.replay_buffer import load_replay_buffer

# How many cases each format gets, more than a thousand in all: files with broken bytes, files whose content was changed, and
# pickles with a call of foreign code in them. Formats that share a reader share its cases.
CASES = {
    "npz": {"bytes": 80, "content": 80},
    "dict of arrays": {"content": 120},
    "replay buffer": {"bytes": 80, "content": 80, "calls": 120},
    "d4rl": {"bytes": 30, "content": 60},
    "d4rl-gzip": {"bytes": 50, "content": 20},
    "d3rlpy": {"bytes": 40, "content": 40},
    "robomimic": {"bytes": 40, "content": 40},
    "minari-hdf5": {"bytes": 30, "content": 50},
    "minari-arrow": {"bytes": 30, "content": 20},
    "minari-parquet": {"bytes": 30, "content": 10},
    "imitation": {"bytes": 50, "content": 50},
    "parquet": {"bytes": 50, "content": 60},
}
HDF5 = ("d4rl", "d4rl-gzip", "d3rlpy", "robomimic")
MINARI = ("minari-hdf5", "minari-arrow", "minari-parquet")
# A case takes milliseconds; one that took this long would be a hang.
LIMIT = timedelta(seconds=10)

pytestmark = pytest.mark.filterwarnings("ignore:.*(set to None|env_spec is None)")


def cases(name: str, kind: str) -> settings:
    health = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=CASES[name][kind], deadline=LIMIT, suppress_health_check=health)


def small_buffer() -> ReplayBuffer:
    buffer = ReplayBuffer(12, spaces.Box(-np.inf, np.inf, (1,), np.float32), spaces.Box(0, 10, (1,)), "cpu", 2)
    fill(buffer, 8)
    buffer.observation_space.seed(0)
    return buffer


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """For each format the files of a folder; of a format of single files, the folder holds that file alone."""
    folder = tmp_path_factory.mktemp("whole")
    paths = {
        "npz": folder / "x.npz",
        "replay buffer": folder / "x.pkl",
        "parquet": folder / "x.parquet",
        "imitation": IMITATION,
    }
    save_dataset(OfflineDataset(**make_arrays(), env_id="Made-up-v0", reference_scores=(-1.0, 2.0)), paths["npz"])
    paths["replay buffer"].write_bytes(pickle.dumps(small_buffer(), pickle.HIGHEST_PROTOCOL))
    pq.write_table(frames(), paths["parquet"])
    paths |= write_formats(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MINARI_DATASETS_PATH", str(folder / "minari"))
        for name in ("hdf5", "arrow"):
            save_dataset(OfflineDataset(**make_arrays(), env_id="Made-up-v0"), f"minari:{name}-v0", data_format=name)
            paths[f"minari-{name}"] = folder / f"minari/{name}-v0/data"
    files = {name: read_files(path) for name, path in paths.items()}
    files["minari-parquet"] = minari_parquet(files["minari-arrow"])
    return files


def read_files(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {f"x{path.suffix}": path.read_bytes()}
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def minari_parquet(arrow: dict[str, bytes]) -> dict[str, bytes]:
    """Minari's third format is its second with other files."""
    files = {}
    for name, content in arrow.items():
        if name.endswith(".arrow"):
            sink = pa.BufferOutputStream()
            with pa.ipc.open_file(content) as reader:
                pq.write_table(reader.read_all(), sink)
            files[name.removesuffix(".arrow") + ".parquet"] = sink.getvalue().to_pybytes()
        else:
            files[name] = content.replace(b'"data_format": "arrow"', b'"data_format": "parquet"')
    return files


LOADERS: dict[str, Callable[[Path], OfflineDataset]] = {
    "npz": load_npz,
    "replay buffer": load_replay_buffer,
    **dict.fromkeys(HDF5, load_hdf5),
    **dict.fromkeys(MINARI, load_minari),
    "imitation": lambda path: load_imitation(path, ACTION_SPACE),
    "parquet": lambda path: load_parquet(path, ACTION_SPACE),
}


def put(files: dict[str, bytes], folder: Path) -> Path:
    """Write the files anew -> the only file, or the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder / next(iter(files)) if len(files) == 1 else folder


def check(name: str, path: Path, fields: tuple[str, ...] = ()) -> None:
    assert_loads_or_is_refused(lambda: LOADERS[name](path), path.name, fields)


@pytest.mark.parametrize("name", LOADERS)
def test_whole_files_are_read(name, whole, tmp_path):
    assert len(LOADERS[name](put(whole[name], tmp_path / "copy"))) >= 8


@pytest.mark.parametrize("name", LOADERS)
def test_broken_bytes(name, whole, tmp_path):
    @cases(name, "bytes")
    @given(broken_files(whole[name]))
    def run(files):
        check(name, put(files, tmp_path / "copy"))

    run()


# --- changed content --------------------------------------------------------------------------------------------------

FIELDS = ("observations", "actions", "rewards", "terminations", "truncations", "episode_ends")
HDF5_FIELDS = (
    "observations",
    "actions",
    "rewards",
    "terminals",
    "timeouts",
    "terminated",
    "num_episodes",
    "data",
    "obs",
    "dones",
)
METADATA_FIELDS = ("metadata", "space", "env_id", "reference_scores", "Box", "JSON")


def test_content_of_npz(whole, tmp_path):
    whole_path = put(whole["npz"], tmp_path / "whole")
    with np.load(whole_path) as file:
        content = {name: file[name] for name in file.files}
    metadata = str(content.pop("metadata"))

    @cases("npz", "content")
    @given(st.data())
    def run(data):
        if data.draw(st.booleans()):
            np.savez(tmp_path / "x.npz", **data.draw(broken_arrays(content)), metadata=np.array(metadata))
            check("npz", tmp_path / "x.npz", FIELDS)
        else:
            np.savez(tmp_path / "x.npz", **content, metadata=np.array(data.draw(broken_json(metadata))))
            check("npz", tmp_path / "x.npz")

    run()


def test_content_of_dicts():
    content = {**make_arrays(), "episode_ends": np.array([10, 20, 30, 40])}
    arrays = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in content.items() if name not in arrays}
    odd = JUNK | st.sampled_from([spaces.Discrete(2), spaces.Text(3), spaces.Box(0, 1), object(), b"x", {"a": [1]}, set()])

    @cases("dict of arrays", "content")
    @given(st.data())
    def run(data):
        broken = data.draw(broken_arrays(arrays)) | others
        for name in data.draw(st.lists(st.sampled_from(sorted(content)), max_size=2)):
            broken[name] = data.draw(odd)
        assert_loads_or_is_refused(lambda: load_dataset(broken), "", (*FIELDS, "space", "row"))

    run()


def test_content_of_replay_buffers(tmp_path):
    state = vars(small_buffer())
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}

    @cases("replay buffer", "content")
    @given(st.data())
    def run(data):
        buffer = small_buffer()
        broken = data.draw(broken_arrays(arrays))
        for name in data.draw(
            st.lists(st.sampled_from(["pos", "full", "buffer_size", "n_envs", "action_space"]), max_size=2)
        ):
            broken[name] = data.draw(JUNK)
        vars(buffer).update(dict.fromkeys(arrays))
        vars(buffer).update(broken)
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(buffer))
        check(
            "replay buffer",
            tmp_path / "x.pkl",
            (*FIELDS, "buffer is empty", "dones", "timeouts", "buffer_size", "n_envs", "pos", "full", "space"),
        )

    run()


@pytest.mark.parametrize("name", HDF5)
def test_content_of_hdf5(name, whole, tmp_path):
    content = content_of(put(whole[name], tmp_path / "whole"))

    @cases(name, "content")
    @given(broken_arrays(content))
    def run(arrays):
        check(name, write(tmp_path / "x.h5", arrays), HDF5_FIELDS)

    run()


@pytest.mark.parametrize("name", MINARI)
def test_content_of_minari(name, whole, tmp_path):
    files = dict(whole[name])
    metadata = files["metadata.json"].decode()
    path = put(files, tmp_path / "copy")
    arrays = content_of(path / "main_data.hdf5") if name == "minari-hdf5" else {}

    @cases(name, "content")
    @given(st.data())
    def run(data):
        path = put(files, tmp_path / "copy")
        if arrays and data.draw(st.booleans()):
            write(path / "main_data.hdf5", data.draw(broken_arrays(arrays)))
            check(name, path, (*FIELDS, "episode"))
        else:
            (path / "metadata.json").write_text(data.draw(broken_json(metadata)))
            check(name, path)

    run()


def test_content_of_imitation(tmp_path):
    state = (IMITATION / "state.json").read_text()

    @cases("imitation", "content")
    @given(st.one_of(changes(["obs", "acts", "rews", "terminal", "infos"]), broken_json(state)))
    def run(change):
        if isinstance(change, str):
            path = change_imitation(tmp_path / "x", lambda table: table)
            (path / "state.json").write_text(change)
        else:
            path = change_imitation(tmp_path / "x", lambda table: apply(table, change))
        check("imitation", path)

    run()


def test_content_of_parquet(tmp_path):
    @cases("parquet", "content")
    @given(changes(frames().column_names))
    def run(steps):
        pq.write_table(apply(frames(), steps), tmp_path / "x.parquet")
        check("parquet", tmp_path / "x.parquet")

    run()


VALUES = st.sampled_from(
    [
        None,
        "x",
        b"x",
        True,
        -1,
        0,
        1,
        2**62,
        -0.0,
        0.5,
        1e39,
        float("nan"),
        float("inf"),
        [],
        [None],
        [1.0],
        [1.0, 2.0],
        [["x"]],
        {"a": 1},
    ]
)


def changes(column_names):
    """Lists of things to do to a table: to a column, or to the order of its rows."""
    name = st.sampled_from(column_names)
    return st.lists(
        st.one_of(
            st.tuples(st.just("drop"), name),
            st.tuples(st.just("rename"), name, name),
            st.tuples(st.just("set"), name, VALUES, st.one_of(st.none(), st.integers(0, 11))),
            st.tuples(st.just("shuffle"), st.randoms(use_true_random=False)),
            st.tuples(st.just("cut"), st.integers(0, 12), st.integers(0, 12)),
        ),
        min_size=1,
        max_size=3,
    )


def apply(table: pa.Table, steps) -> pa.Table:
    for kind, *arguments in steps:
        if kind == "shuffle":
            rows = list(range(len(table)))
            arguments[0].shuffle(rows)
            table = table.take(pa.array(rows, pa.int64()))
        elif kind == "cut":
            table = table.slice(*arguments)
        elif table.column_names.count(arguments[0]) != 1:
            continue
        elif kind == "drop":
            table = table.drop_columns([arguments[0]])
        elif kind == "rename":
            table = table.rename_columns([arguments[1] if name == arguments[0] else name for name in table.column_names])
        elif len(table):
            name, value, row = arguments
            rows = None if row is None or value in (b"x", "x", {"a": 1}, [["x"]]) else [row % len(table)]
            try:
                table = with_values(name, value, rows)(table)
            except (pa.ArrowException, TypeError, ValueError):
                continue  # a column of two types, which no file can hold
    return table


# --- pickles that call ------------------------------------------------------------------------------------------------


def test_pickles_never_call(tmp_path, monkeypatch):
    """Calls of foreign code put anywhere in a whole pickle: refused, not made."""
    # Without frames, whose lengths a splice would break before it is reached.
    content = pickle.dumps(small_buffer(), protocol=3)
    outcomes: Counter[str] = Counter()
    called: list[Any] = []

    @cases("replay buffer", "calls")
    @given(spliced_pickle(content, "1"))
    def run(spliced):
        (tmp_path / "x.pkl").write_bytes(spliced)
        with monkeypatch.context() as patch:
            for module, name in ((os, "system"), (posix, "system"), (builtins, "eval"), (builtins, "exec"), (np, "load")):
                patch.setattr(module, name, lambda *args, name=name: called.append((name, args)))
            with pytest.raises(DatasetError, match=r"x\.pkl") as error:
                load_replay_buffer(tmp_path / "x.pkl")
        outcomes["refused" in str(error.value)] += 1

    run()
    assert called == []
    # Most are refused by name; the others are no pickle any more.
    assert outcomes[True] > outcomes.total() / 2


PROTOCOLS = range(3, pickle.HIGHEST_PROTOCOL + 1)


def dict_buffer() -> DictReplayBuffer:
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.MultiDiscrete([2, 3]))
    return DictReplayBuffer(10, space, spaces.Discrete(3), "cpu")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_buffers_of_every_kind_are_still_read(protocol, tmp_path):
    for buffer in (small_buffer(), dict_buffer()):
        for _ in range(0 if buffer.size() else 3):
            step = {key: np.zeros((1, 2)) for key in ("a", "b")}
            buffer.add(step, step, np.ones((1, 1)), np.ones(1), np.zeros(1), [{}])
        buffer.action_space.sample()
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(buffer, protocol))
        dataset = load_replay_buffer(tmp_path / "x.pkl")
        np.testing.assert_array_equal(dataset.actions, load_dataset(buffer).actions)


CHANGES_A_CLASS = b"\x80\x04cstable_baselines3.common.buffers\nReplayBuffer\nN}\x8c\x04sizeK\x05s\x86b."
CHANGES_A_FUNCTION = b"\x80\x04cnumpy.random._pickle\n__generator_ctor\nN}\x8c\x0c__defaults__)s\x86b."
CHANGES_A_MEMBER = (
    b"\x80\x04cstable_baselines3.her.goal_selection_strategy\nGoalSelectionStrategy\nK\x00\x85R}\x8c\x07_value_K\x05sb."
)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (CHANGES_A_CLASS, "ReplayBuffer"),
        (CHANGES_A_FUNCTION, "__generator_ctor"),
        (CHANGES_A_MEMBER, "GoalSelectionStrategy"),
    ],
    ids=["class", "function", "member"],
)
def test_pickles_leave_no_class_changed(content, name, tmp_path):
    """All of these are made of names that a buffer needs; the class would stay changed for the whole process."""
    (tmp_path / "x.pkl").write_bytes(content)
    before = dict(vars(ReplayBuffer))
    with pytest.raises(DatasetError, match=rf"x\.pkl: refused: the pickle changes {name}"):
        load_dataset(tmp_path / "x.pkl")
    assert dict(vars(ReplayBuffer)) == before


# --- small files that claim to be large -------------------------------------------------------------------------------


def assert_quickly_refused(source: Any, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(DatasetError, match=words):
        load_dataset(source, ACTION_SPACE)
    assert time.monotonic() - start < 20


def test_a_pickle_of_nine_bytes_takes_no_gigabytes(tmp_path):
    """A memo index of 2**31 - 1: the reader written in C allocates 32 GB for it."""
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")
    assert_quickly_refused(tmp_path / "x.pkl", "holds a NoneType")


def test_pickles_that_name_more_bytes_than_they_have_are_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"\x80\x05\x96" + (1 << 30).to_bytes(8, "little") + b"123.")
    tracemalloc.start()
    assert_quickly_refused(tmp_path / "x.pkl", "array of 1073741824 bytes is cut off")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**8


def test_pickles_that_make_large_objects_are_refused(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"cgymnasium.spaces.box\nBox\n(K\x00K\x01J\x00\xe1\xf5\x05\x85tR.")
    assert_quickly_refused(tmp_path / "x.pkl", r"refused: the pickle calls Box")
    # An array made by calling its class, with values that are not in the file.
    buffer = small_buffer()
    buffer.next_observations = "here"
    content = pickle.dumps(buffer, protocol=3)
    large = b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85\x85\x81"
    (tmp_path / "x.pkl").write_bytes(content.replace(b"X\x04\x00\x00\x00here", large))
    assert_quickly_refused(tmp_path / "x.pkl", r"next_observations claims \d{10,} bytes")


def test_buffers_that_claim_to_be_large_are_refused(tmp_path):
    for field, value in (("buffer_size", 10**12), ("n_envs", 10**12), ("pos", -1), ("pos", 10**30), ("buffer_size", 1.5)):
        buffer = small_buffer()
        setattr(buffer, field, value)
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(buffer))
        assert_quickly_refused(tmp_path / "x.pkl", field)
    buffer = small_buffer()
    buffer.action_space.low = np.zeros(10**5, np.float32)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(buffer))
    assert_quickly_refused(tmp_path / "x.pkl", r"action_space has bounds of shape \(100000,\)")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_npz_compressed_in_other_ways_is_refused(method, tmp_path):
    """They pack gigabytes into a few bytes, and NumPy never writes them."""
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as file:
        file.writestr("rewards.npy", bytes(1 << 20))
    assert_quickly_refused(tmp_path / "x.npz", r"rewards\.npy is compressed in a way")


def test_npz_with_sizes_that_the_file_cannot_hold_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("rewards.npy", bytes(1 << 20))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the size in the directory at the end
    content[place : place + 4] = (1 << 31).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(content)
    assert_quickly_refused(tmp_path / "x.npz", r"rewards\.npy claims 2147483648 bytes but stores \d+")


def test_npz_with_many_names_of_one_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("rewards.npy", np.random.default_rng(0).bytes(5000))
        for _ in range(50):
            file.filelist.append(file.filelist[0])
    assert_quickly_refused(tmp_path / "x.npz", r"claim more than the file's \d+ bytes")


def test_npz_with_a_space_of_terabytes_is_refused(tmp_path):
    space = {"type": "Box", "low": 0.0, "high": 1.0, "shape": [10**6, 10**6], "dtype": "float32"}
    arrays = {name: value for name, value in make_arrays().items() if isinstance(value, np.ndarray)}
    np.savez(tmp_path / "x.npz", **arrays, metadata=np.array(json.dumps({"observation_space": space})))
    assert_quickly_refused(tmp_path / "x.npz", r"Box of shape \(1000000, 1000000\)")


def test_parquet_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    """A million equal rows are some kilobytes in the file."""
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.arrow.UNCHECKED", 1000)
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.arrow.MAX_EXPANSION", 50)
    pq.write_table(frames().slice(0, 1).take(pa.array(np.zeros(10**6, np.int64))), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 100_000
    # Rather more than the first part of 65,536 rows, at 40 bytes and more each.
    assert_quickly_refused(tmp_path / "x.parquet", r"claims \d{7} bytes in a file of \d+")


def test_arrow_that_unpacks_to_gigabytes_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.arrow.UNCHECKED", 1000)
    shutil.copytree(IMITATION, tmp_path / "x")
    table = pa.table({"obs": [[0.0] * 1_000_000], "acts": [[0.0]], "rews": [[0.0]], "terminal": [True]})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    path = str(tmp_path / "x" / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, table.schema, options=options) as stream:
        stream.write_table(table)
    assert_quickly_refused(tmp_path / "x", r"claims 8\d{6} bytes in a file of \d+")


def test_lists_of_nothing_are_refused(tmp_path):
    """A list of two billion nulls takes no memory until its nulls are counted."""
    nothing = pa.LargeListArray.from_arrays(pa.array([0, 2**31 - 1], pa.int64()), pa.nulls(2**31 - 1))
    table = pa.table({"obs": nothing, "acts": [[0.0]], "rews": [[0.0]], "terminal": [True]})
    folder = change_imitation(tmp_path / "x", lambda _: table)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        assert_quickly_refused(folder, "obs row 0 is missing")
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 10**8
