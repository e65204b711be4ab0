"""Frames as LeRobot keeps them, in one file or many, against a table worked out by hand, and changed ones."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from five_episodes import ACTION_SPACE, assert_is_table, frames, with_values

from sb3_pg_extras import DatasetError, load_dataset
from sb3_pg_extras.datasets.readers import parquet

# A frame has no next observation: the last one of an episode is its own next where nothing follows, or else left out, and
# the one before it is truncated instead. Episode 5 is done at its time limit.
PARQUET_TABLE = """
   10  1.0  100  11  0  0
   11  1.1  101  12  0  0
   12  1.2  102  12  1  0

   20  2.0  200  21  0  1

   30  3.0  300  30  1  0

   40  4.0  400  41  0  0
   41  4.1  401  42  0  0
   42  4.2  402  43  0  0

   50  5.0  500  51  0  1
"""


@pytest.fixture
def parquet_path(tmp_path) -> Path:
    return tmp_path / "x.parquet"


def test_parquet_by_hand(parquet_path):
    pq.write_table(frames(), parquet_path, row_group_size=4)
    assert_is_table(load_dataset(parquet_path, ACTION_SPACE), PARQUET_TABLE)
    pq.write_table(frames().drop_columns(["frame_index"]), parquet_path)
    assert_is_table(load_dataset(str(parquet_path), ACTION_SPACE), PARQUET_TABLE)
    with pytest.raises(DatasetError, match=r"x\.parquet.*'action_space' is missing"):
        load_dataset(parquet_path)


@pytest.mark.parametrize(
    "name", ["data/chunk-000/episode_{:06d}.parquet", "data/chunk-000/file-{:03d}.parquet", "part-{}.parquet"]
)
def test_parquet_shards_in_any_order(tmp_path, name):
    order = np.random.default_rng(0).permutation(len(frames()))
    for number, rows in enumerate([order[:3], order[3:3], order[3:8], order[8:]]):
        file = tmp_path / "lerobot" / name.format(9 - number)
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(frames().take(rows), file)
    if name.startswith("data"):
        (tmp_path / "lerobot/meta/episodes").mkdir(parents=True)
        pq.write_table(pa.table({"length": [3]}), tmp_path / "lerobot/meta/episodes/file-000.parquet")
    assert_is_table(load_dataset(tmp_path / "lerobot", ACTION_SPACE), PARQUET_TABLE)


def test_parquet_with_several_observations_and_an_image(parquet_path):
    n = len(frames())
    table = (
        frames()
        .append_column("observation.goal", pa.array([[[1, 2], [3, n]] for n in range(n)]))
        .append_column("observation.images.top", pa.array([{"bytes": b"", "path": "x"}] * n))
        .append_column("observation.speed", pa.array(np.arange(n) / 2))
    )
    pq.write_table(table, parquet_path)
    dataset = load_dataset(parquet_path, ACTION_SPACE)
    assert {key: value.shape[1:] for key, value in dataset.observations.items()} == {
        "goal": (2, 2),
        "speed": (1,),
        "state": (1,),
    }
    # Rows 4, 9 and 11, the last frames of episodes 2, 4 and 5, are left out.
    kept = np.setdiff1d(np.arange(n), [4, 9, 11])
    np.testing.assert_array_equal(dataset.observations["speed"][:, 0], kept / 2)
    assert dataset.observations["goal"][:, 1, 1].tolist() == kept.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *[(lambda t, name=name: t.drop_columns([name]), [f"'{name}' is missing"])
          for name in ("observation.state", "action", "next.reward", "next.done", "episode_index")],
        (lambda t: t.drop_columns(["frame_index", "index"]), ["'frame_index' is missing"]),
        (with_values("next.reward", None, [7]), ["next.reward row 7", "null"]),
        (with_values("next.reward", float("nan"), [7]), ["next.reward row 7", "nan"]),
        (with_values("next.reward", "x"), ["next.reward", "numbers", "string"]),
        (with_values("next.reward", [1.0, 2.0]), ["next.reward", "(2,)", "one value"]),
        (with_values("action", [1.0, 2.0], [3]), ["action row 3 has 2"]),
        (with_values("action", [float("inf")], [3]), ["action row 3", "inf"]),
        (with_values("action", None, [3]), ["action row 3", "null"]),
        (with_values("action", [11.0], [3]), ["actions row 3", "11", "outside"]),
        (with_values("observation.state", [None], [2]), ["observation.state row 2", "null"]),
        (with_values("observation.state", []), ["'observation.state' is missing or does not hold numbers"]),
        (with_values("observation.state", "x"), ["'observation.state' is missing or does not hold numbers"]),
        (with_values("episode_index", 1.5), ["episode_index", "integers"]),
        (with_values("frame_index", 0), ["frame_index goes from 0 to 0 in episode 1"]),
        (lambda t: pa.concat_tables([t.slice(0, 1), t.slice(2)]), ["frame_index goes from 0 to 2 in episode 1"]),
        (with_values("next.done", True, [0]), ["next.done is set at frame_index 0 of episode 1"]),
        (with_values("next.truncated", True, [3]), ["next.truncated is set at frame_index 0 of episode 2"]),
        (with_values("next.done", 0.5), ["next.done row 0", "0.5"]),
        (lambda t: t.slice(0, 0), ["no frames"]),
        (lambda t: t.slice(3, 1), ["no transitions"]),
    ],
)  # fmt: skip
def test_wrong_content_of_parquet_is_named(parquet_path, change, words):
    pq.write_table(change(frames()), parquet_path)
    with pytest.raises(DatasetError) as error:
        load_dataset(parquet_path, ACTION_SPACE)
    for word in [*words, str(parquet_path)]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["next.truncated"]), ["fields", "next.truncated"]),
        (with_values("action", [1.0, 2.0]), ["action", "(2,)", "(1,)"]),
        (with_values("next.reward", None, [1]), ["next.reward row 1", "null"]),
    ],
)
def test_wrong_shards_of_parquet_are_named(tmp_path, change, words):
    pq.write_table(frames().slice(0, 5), tmp_path / "a.parquet")
    pq.write_table(change(frames().slice(5)), tmp_path / "b.parquet")
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path, ACTION_SPACE)
    for word in [*words, "b.parquet", str(tmp_path)]:
        assert word in str(error.value)


def test_available_memory_is_in_bytes(monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 9 kB\nMemAvailable:     2 kB\n")
    assert parquet.available_memory() == 2048
