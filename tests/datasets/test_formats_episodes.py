"""Formats that keep whole episodes: each library's own files, against a table worked by hand, and against damage."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_arrays
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.common.optional import MissingPackageError
from sb3_pg_extras.datasets import save_dataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.datasets.readers.minari import load_minari

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (1,), np.float32)
ACTION_SPACE = spaces.Box(0, 10, (1,), np.float32)
# Episode k, step t: observation 10 k + t, action k + t / 10, reward 100 k + t. Steps, and how the episode ends:
EPISODES = {
    1: (3, "terminated"),
    2: (2, "truncated"),
    3: (1, "terminated"),
    4: (4, ""),  # cut by the end of the data
    5: (2, "terminated truncated"),
}
#   s    a    r  s' terminated truncated
TABLE = """
   10  1.0  100  11  0  0
   11  1.1  101  12  0  0
   12  1.2  102  13  1  0

   20  2.0  200  21  0  0
   21  2.1  201  22  0  1

   30  3.0  300  31  1  0

   40  4.0  400  41  0  0
   41  4.1  401  42  0  0
   42  4.2  402  43  0  0
   43  4.3  403  44  0  0

   50  5.0  500  51  0  0
   51  5.1  501  52  1  1
"""
# imitation has one flag: what is not terminal was cut.
IMITATION_TABLE = TABLE.replace("44  0  0", "44  0  1").replace("52  1  1", "52  1  0")
# A frame has no next observation: the last one of an episode is its own next where nothing follows, or else left out, and
# the one before it is truncated in its stead.
PARQUET_TABLE = """
   10  1.0  100  11  0  0
   11  1.1  101  12  0  0
   12  1.2  102  12  1  0

   20  2.0  200  21  0  1

   30  3.0  300  30  1  0

   40  4.0  400  41  0  0
   41  4.1  401  42  0  0
   42  4.2  402  43  0  0

   50  5.0  500  51  0  0
   51  5.1  501  51  1  1
"""


def assert_is_table(dataset: OfflineDataset, table: str) -> None:
    episodes = [np.array([line.split() for line in block.splitlines() if line], float) for block in table.split("\n\n")]
    s, a, r, s_next, terminated, truncated = np.concatenate(episodes).T
    np.testing.assert_array_equal(dataset.observations[:, 0], s)
    np.testing.assert_array_equal(dataset.actions[:, 0], a.astype(np.float32))
    np.testing.assert_array_equal(dataset.rewards, r)
    np.testing.assert_array_equal(dataset.next_observations[:, 0], s_next)
    np.testing.assert_array_equal(dataset.terminations, terminated)
    np.testing.assert_array_equal(dataset.truncations, truncated)
    np.testing.assert_array_equal(dataset.episode_ends, np.cumsum([len(episode) for episode in episodes]))


def assert_same(left: OfflineDataset, right: OfflineDataset) -> None:
    for name in (*ARRAY_FIELDS, "episode_ends", "env_id", "reference_scores", "observation_space", "action_space"):
        np.testing.assert_equal(getattr(left, name), getattr(right, name), err_msg=name)


# --- Minari -----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def minari_root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def minari_buffers() -> list[EpisodeBuffer]:
    buffers = []
    for k, (steps, ending) in EPISODES.items():
        last = [False] * (steps - 1)
        buffers.append(
            EpisodeBuffer(
                observations=np.array([[10 * k + t] for t in range(steps + 1)], np.float32),
                actions=np.array([[k + t / 10] for t in range(steps)], np.float32),
                rewards=[100 * k + t for t in range(steps)],
                terminations=[*last, "terminated" in ending],
                truncations=[*last, "truncated" in ending],
            )
        )
    return buffers


@pytest.fixture
def minari_dataset(request) -> minari.MinariDataset:
    return minari.create_dataset_from_buffers(
        "ten/digits-v0",
        minari_buffers(),
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        data_format=getattr(request, "param", "hdf5"),
    )


pytestmark = pytest.mark.filterwarnings("ignore:.*(set to None|env_spec is None)")
each_format = pytest.mark.parametrize("minari_dataset", ["hdf5", "arrow", "parquet"], indirect=True)


@each_format
def test_minari_by_hand(minari_dataset, minari_root):
    root = minari_root / "ten" / "digits-v0"
    for source in ("minari:ten/digits-v0", minari_dataset, root, str(root), root / "data"):
        dataset = load_dataset(source)
        assert_is_table(dataset, TABLE)
        assert (dataset.observation_space, dataset.action_space) == (OBSERVATION_SPACE, ACTION_SPACE)
        assert (dataset.env_id, dataset.reference_scores) == (None, None)
    assert_is_table(load_minari("ten/digits-v0"), TABLE)


@each_format
def test_minari_filtered_episodes(minari_dataset):
    chosen = minari_dataset.filter_episodes(lambda episode: episode.id in (1, 3))
    blocks = TABLE.split("\n\n")
    assert_is_table(load_dataset(chosen), "\n\n".join([blocks[1], blocks[3]]))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_written_to_minari_and_read_back(minari_dataset, minari_root, data_format):
    dataset = load_dataset(minari_dataset)
    save_dataset(dataset, "minari:copy-v1", data_format=data_format)
    assert_same(load_dataset("minari:copy-v1"), dataset)
    assert json.loads((minari_root / "copy-v1/data/metadata.json").read_text())["data_format"] == data_format


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Made-up-v0"])
def test_minari_writer_keeps_images_dicts_and_metadata(data_format, env_id):
    rng = np.random.default_rng(0)
    space = spaces.Dict(
        image=spaces.Box(0, 255, (32, 32, 3), np.uint8),
        place=spaces.Discrete(9, start=2),
        speed=spaces.Box(-1, 1, (2, 2), np.float64),
        bits=spaces.MultiBinary(3),
    )
    steps = [{key: rng.integers(0, 256, (32, 32, 3), np.uint8) if key == "image" else space[key].sample() for key in space}
             for _ in range(8)]  # fmt: skip
    rows = {key: np.stack([step[key] for step in steps]) for key in space}
    # Two episodes of three steps: observations 0 1 2 3 and 4 5 6 7.
    first = [0, 1, 2, 4, 5, 6]
    observations, following = ({key: value[np.add(first, n)] for key, value in rows.items()} for n in (0, 1))
    dataset = OfflineDataset(
        observations, np.array([3, 4, 5, 3, 4, 5]), rng.normal(size=6), following, np.zeros(6), np.zeros(6),
        space, spaces.Discrete(3, start=3), env_id, (-1.5, 2.25), [3, 6],
    )  # fmt: skip
    save_dataset(dataset, "minari:deep/er/pixels-v3", data_format=data_format)
    written = minari.load_dataset("deep/er/pixels-v3")
    assert_same(load_dataset(written), dataset)
    assert written.env_spec.id == env_id
    if env_id == "Pendulum-v1":
        assert isinstance(written.recover_environment().unwrapped, type(gym.make(env_id).unwrapped))


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
@pytest.mark.parametrize("space", [spaces.Discrete(50), spaces.Box(0, 50, (), np.float32), spaces.MultiDiscrete([60, 60])])
def test_minari_writer_observation_spaces(data_format, space):
    states = np.stack([np.full(space.shape, n, space.dtype) for n in range(6)])
    dataset = OfflineDataset(
        states[:-1], np.zeros((5, 1)), np.arange(5), states[1:], np.zeros(5), np.eye(5)[4], space, ACTION_SPACE
    )
    save_dataset(dataset, "minari:plain-v0", data_format=data_format)
    assert_same(load_dataset("minari:plain-v0"), dataset)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    endings=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    data_format=st.sampled_from(["hdf5", "arrow"]),
    seed=st.integers(0, 1000),
)
def test_written_to_minari_and_read_back_whatever_the_episodes(minari_root, lengths, endings, data_format, seed):
    shutil.rmtree(minari_root, ignore_errors=True)
    n, ends, rng = sum(lengths), np.cumsum(lengths), np.random.default_rng(seed)
    # Episode k has the states from row ends[k] + k on, one more than it has steps.
    states = rng.normal(size=(n + len(lengths), 2)).astype(np.float32)
    rows = np.arange(n) + np.repeat(np.arange(len(lengths)), lengths)
    terminations, truncations = np.zeros(n, bool), np.zeros(n, bool)
    terminations[ends - 1], truncations[ends - 1] = np.array([(e % 2, e // 2) for e in endings[: len(lengths)]], bool).T
    dataset = OfflineDataset(
        states[rows], rng.uniform(0, 10, (n, 1)), rng.normal(size=n), states[rows + 1], terminations, truncations,
        spaces.Box(-np.inf, np.inf, (2,), np.float32), ACTION_SPACE, episode_ends=ends,
    )  # fmt: skip
    save_dataset(dataset, "minari:any/episodes-v0", data_format=data_format)
    assert_same(load_dataset("minari:any/episodes-v0"), dataset)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_minari_images_in_jpeg(data_format):
    # Flat grey survives JPEG.
    frames = np.stack([np.full((32, 32, 3), 8 * n, np.uint8) for n in range(3)])
    buffer = EpisodeBuffer(
        observations=frames, actions=np.zeros((2, 1), np.float32), rewards=[0, 1], terminations=[0, 1], truncations=[0, 0]
    )
    written = minari.create_dataset_from_buffers(
        "grey-v0",
        [buffer, buffer],
        observation_space=spaces.Box(0, 255, (32, 32, 3), np.uint8),
        action_space=ACTION_SPACE,
        data_format=data_format,
    )
    dataset = load_dataset(written)
    assert dataset.observations[:, 0, 0, 0].tolist() == [0, 8, 0, 8]
    assert dataset.next_observations[:, -1, -1, -1].tolist() == [8, 16, 8, 16]


def test_minari_arrow_episodes_longer_than_a_batch():
    n = 2**15
    states = np.arange(n + 1, dtype=np.float32)[:, np.newaxis]
    dataset = OfflineDataset(
        states[:-1], np.zeros((n, 1)), np.zeros(n), states[1:], np.zeros(n), np.zeros(n), OBSERVATION_SPACE, ACTION_SPACE
    )
    with pytest.raises(DatasetError, match=r"long-v0.*episode 0 is in 2 batches.*hdf5"):
        save_dataset(dataset, "minari:long-v0", data_format="arrow")
    save_dataset(dataset, "minari:long-v0")
    assert_same(load_dataset("minari:long-v0"), dataset)
    whole = EpisodeBuffer(
        None, None, None, states, dataset.actions, dataset.rewards, dataset.terminations, dataset.truncations
    )
    written = minari.create_dataset_from_buffers(
        "long-v1", [whole], observation_space=OBSERVATION_SPACE, action_space=ACTION_SPACE, data_format="arrow"
    )
    with pytest.raises(DatasetError, match="episode 0 is in 2 batches"):
        load_dataset(written)


def test_minari_writer_refuses_what_it_cannot_write(minari_dataset, minari_root, monkeypatch):
    dataset = load_dataset(minari_dataset)
    with pytest.raises(DatasetError, match=r"ten/digits-v0 exists already"):
        save_dataset(dataset, "minari:ten/digits-v0")
    for wrong in ("no-version", "../up-v0", "", "a b-v0"):
        with pytest.raises(DatasetError, match="ids of Minari"):
            save_dataset(dataset, f"minari:{wrong}")
    with pytest.raises(DatasetError, match="'hdf5' or 'arrow'"):
        save_dataset(dataset, "minari:new-v0", data_format="csv")
    jumping = make_arrays() | {"next_observations": make_arrays(seed=1)["next_observations"]}
    with pytest.raises(DatasetError, match="next_observations row 0 is not observations row 1"):
        save_dataset(OfflineDataset(**jumping), "minari:new-v0")
    with pytest.raises(DatasetError, match="uint8"):
        save_dataset(
            OfflineDataset(**make_arrays() | {"observation_space": spaces.Box(0, 255, (3,), np.uint8)}), "minari:new-v0"
        )
    with pytest.raises(DatasetError, match="env_id='no id!'"):
        save_dataset(OfflineDataset(**make_arrays(), env_id="no id!"), "minari:new-v0")
    # A failure half-way leaves nothing.
    monkeypatch.setattr(minari.MinariDataset, "__init__", lambda *_: 1 / 0)
    with pytest.raises(DatasetError, match=r"new-v0.*ZeroDivisionError"):
        save_dataset(dataset, "minari:new-v0")
    assert not (minari_root / "new-v0").exists()


def test_minari_ids_that_are_not_there(minari_root):
    with pytest.raises(DatasetError, match="minari download ten/nothing-v0"):
        load_dataset("minari:ten/nothing-v0")
    with pytest.raises(DatasetError, match="ids of Minari"):
        load_dataset("minari:../../etc-v0")


def test_minari_never_makes_the_environment_that_a_file_names(minari_dataset, minari_root, tmp_path):
    file, mark = minari_root / "ten/digits-v0/data/metadata.json", tmp_path / "was-run"
    metadata = json.loads(file.read_text())
    del metadata["observation_space"]
    spec = {
        "id": "X-v0",
        "entry_point": "subprocess:getoutput",
        "kwargs": {"cmd": f"touch {mark}"},
        "additional_wrappers": [],
    }
    file.write_text(json.dumps(metadata | {"env_spec": json.dumps(spec)}))
    with pytest.raises(DatasetError, match="'observation_space' is missing"):
        load_dataset("minari:ten/digits-v0")
    assert not mark.exists()


@each_format
def test_minari_counts_that_are_not_there(minari_dataset, minari_root):
    file = minari_root / "ten/digits-v0/data/metadata.json"
    for total, words in ((10**15, "but there are 5"), ("5", "'total_episodes' is missing"), (0, "no transitions")):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"total_episodes": total}))
        with pytest.raises(DatasetError, match=words):
            load_dataset("minari:ten/digits-v0")


def hdf5_without(name):
    def change(file):
        del file[name]

    return change


def hdf5_with(name, data):
    def change(file):
        del file[name]
        file.update({f"{name}/{key}": value for key, value in data.items()} if isinstance(data, dict) else {name: data})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hdf5_without("episode_3/rewards"), ["episode_3", "'rewards' is missing"]),
        (hdf5_without("episode_3"), ["total_episodes is 5", "there are 4"]),
        (hdf5_with("episode_0/observations", np.zeros((3, 1))), ["episode 0: observations has 3 rows", "expected 4"]),
        (hdf5_with("episode_0/actions", np.zeros((4, 1))), ["episode 0: actions has 4 rows", "expected 3"]),
        (hdf5_with("episode_1/actions", np.zeros((2, 2))), ["episode 1: actions", "(2,)"]),
        (hdf5_with("episode_0/rewards", np.array([0, np.nan, 0])), ["rewards row 1", "nan"]),
        (hdf5_with("episode_0/rewards", 1.0), ["rewards"]),
        (hdf5_with("episode_0/actions", {"x": np.zeros((3, 1))}), ["episode_0", "'actions' must be a Dataset"]),
        (hdf5_with("episode_1/observations", {"x": np.zeros((3, 1))}), ["'observations' must be a Dataset"]),
        (hdf5_with("episode_0/rewards", [b"a", b"b", b"c"]), ["episode 0: rewards", "numbers"]),
        (hdf5_with("episode_0/terminations", [1, 0, 0]), ["row 0 is terminated"]),
        (hdf5_with("episode_0/actions", np.full((3, 1), 11)), ["actions row 0", "11"]),
        (hdf5_with("episode_0/observations", h5py.ExternalLink("/etc/hostname", "/x")), ["observations", "link"]),
        (lambda f: f.create_dataset("episode_0/infos", (10**13,), float, chunks=(10**9,)), ["infos", "claims", "stores 0"]),
        (lambda f: f.create_dataset("episode_0/infos", (10**8,), bool, chunks=(1,)), ["infos", "100000000 chunks"]),
        (lambda f: f.create_group("episode_0/infos").__setitem__("again", f["episode_0/infos"]), ["Recursion"]),
    ],
)  # fmt: skip
def test_wrong_content_of_minari_is_named(minari_dataset, minari_root, change, words):
    path = minari_root / "ten/digits-v0/data/main_data.hdf5"
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DatasetError) as error:
        load_dataset("minari:ten/digits-v0")
    for word in [*words, str(path.parent)]:
        assert word in str(error.value)


# --- imitation --------------------------------------------------------------------------------------------------------

IMITATION = Path(__file__).parent / "fixtures" / "imitation"
ARROW_FILE = "data-00000-of-00001.arrow"


def test_imitation_by_hand():
    for source in (IMITATION, str(IMITATION)):
        dataset = load_dataset(source, ACTION_SPACE)
        assert_is_table(dataset, IMITATION_TABLE)
        assert dataset.action_space == ACTION_SPACE
    with pytest.raises(DatasetError, match=r"imitation.*'action_space' is missing"):
        load_dataset(IMITATION)


def change_imitation(folder: Path, change) -> Path:
    """A copy of the fixture with another table in it."""
    shutil.copytree(IMITATION, folder, dirs_exist_ok=True)
    with pa.ipc.open_stream((IMITATION / ARROW_FILE).read_bytes()) as stream:
        table = change(stream.read_all())
    with pa.OSFile(str(folder / ARROW_FILE), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return folder


def with_column(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values))


def test_imitation_never_decodes_infos(tmp_path):
    evil = json.dumps({"py/reduce": [{"py/function": "subprocess.getoutput"}, {"py/tuple": [f"touch {tmp_path}/was-run"]}]})
    folder = change_imitation(tmp_path / "x", with_column("infos", [[evil] * steps for steps, _ in EPISODES.values()]))
    assert_is_table(load_dataset(folder, ACTION_SPACE), IMITATION_TABLE)
    assert not (tmp_path / "was-run").exists()


def test_imitation_of_images_and_discrete_actions_in_two_chunks(tmp_path):
    obs = [np.full((3, 8, 8, 3), n, np.uint8).tolist() for n in (0, 1)]
    table = pa.table(
        {
            "obs": pa.chunked_array([pa.array([o], pa.list_(pa.list_(pa.list_(pa.list_(pa.uint8()))))) for o in obs]),
            "acts": pa.chunked_array([pa.array([[0, 1]]), pa.array([[2, 0]])]),
            "rews": pa.chunked_array([pa.array([[0.0, 1.0]])] * 2),
            "terminal": pa.chunked_array([pa.array([True]), pa.array([False])]),
        }
    )
    dataset = load_dataset(change_imitation(tmp_path / "x", lambda _: table), spaces.Discrete(3))
    assert dataset.observation_space == spaces.Box(0, 255, (8, 8, 3), np.uint8)
    assert dataset.observations[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert dataset.actions.tolist() == [0, 1, 2, 0]
    assert dataset.episode_ends.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop_columns(["rews"]), ["'rews' is missing", "without rewards"]),
        (lambda t: t.drop_columns(["obs"]), ["'obs' is missing"]),
        (lambda t: t.rename_columns(["obs", "acts", "infos", "done", "rews"]), ["'terminal' is missing"]),
        (lambda t: t.slice(0, 0), ["no transitions"]),
        (with_column("acts", [1, 2, 3, 4, 5]), ["acts", "list", "int64"]),
        (with_column("acts", [["a"]] * 5), ["episode 0: acts", "numbers", "string"]),
        (with_column("rews", [[0.0, 1.0, 2.0], [0.0], [0.0], [0.0], [0.0]]), ["episode 1: observations has 3 rows"]),
        (with_column("rews", [[0.0, 1.0, float("nan")], None, [0.0], [0.0], [0.0]]), ["episode 0: rews row 2", "nan"]),
        (with_column("rews", [None, [0.0], [0.0], [0.0], [0.0]]), ["episode 0: rews", "null"]),
        (with_column("obs", [[[1.0], [2.0], [3.0, 4.0], [5.0]]] * 5), ["episode 0: obs row 2 has 2"]),
        (with_column("obs", [[[1.0], [2.0], None, [5.0]]] * 5), ["episode 0: obs row 2", "null"]),
        (with_column("obs", [[[1.0], [2.0], [None], [5.0]]] * 5), ["episode 0: obs row 2", "null"]),
        (with_column("terminal", [True, None, True, True, True]), ["terminal row 1", "null"]),
    ],
)  # fmt: skip
def test_wrong_content_of_imitation_is_named(tmp_path, change, words):
    folder = change_imitation(tmp_path / "x", change)
    with pytest.raises(DatasetError) as error:
        load_dataset(folder, ACTION_SPACE)
    for word in [*words, str(folder)]:
        assert word in str(error.value)


def test_episodes_of_imitation_are_numbered_across_batches(tmp_path):
    one = pa.table({"obs": [[[0.0], [1.0]]], "acts": [[[0.0]]], "rews": [[1.0]], "terminal": [True]})
    wrong = one.set_column(2, "rews", pa.array([[float("nan")]]))
    folder = change_imitation(tmp_path / "x", lambda _: pa.concat_tables([one, one, wrong]))
    with pytest.raises(DatasetError, match="episode 2: rews row 0 is not finite"):
        load_dataset(folder, ACTION_SPACE)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"_data_files": [{"filename": "../../x"}]}', '{"_data_files": []}'])
def test_wrong_state_of_imitation_is_named(tmp_path, state):
    shutil.copytree(IMITATION, tmp_path / "x")
    (tmp_path / "x" / "state.json").write_text(state)
    with pytest.raises(DatasetError, match="x"):
        load_dataset(tmp_path / "x", ACTION_SPACE)


# --- parquet ----------------------------------------------------------------------------------------------------------


def frames() -> pa.Table:
    rows = [(k, t, t == steps - 1, ending) for k, (steps, ending) in EPISODES.items() for t in range(steps)]
    return pa.table(
        {
            "observation.state": pa.array([[10.0 * k + t] for k, t, _, _ in rows], pa.list_(pa.float32())),
            "action": pa.array([[k + t / 10] for k, t, _, _ in rows], pa.list_(pa.float32(), 1)),
            "next.reward": pa.array([100.0 * k + t for k, t, _, _ in rows], pa.float32()),
            "next.done": [last and "terminated" in ending for _, _, last, ending in rows],
            "next.truncated": [last and "truncated" in ending for _, _, last, ending in rows],
            "next.success": [False] * len(rows),
            "episode_index": [k for k, _, _, _ in rows],
            "frame_index": [t for _, t, _, _ in rows],
            "index": list(range(len(rows))),
            "timestamp": [t / 10 for _, t, _, _ in rows],
        }
    )


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
        "speed": (),
        "state": (1,),
    }
    # Rows 4 and 9, the last frames of episodes 2 and 4, are left out.
    kept = np.setdiff1d(np.arange(n), [4, 9])
    np.testing.assert_array_equal(dataset.observations["speed"], kept / 2)
    assert dataset.observations["goal"][:, 1, 1].tolist() == kept.tolist()


def replaced(name, values, rows=None):
    def change(table):
        column = table[name].to_pylist()
        for row in range(len(column)) if rows is None else rows:
            column[row] = values
        return table.set_column(table.column_names.index(name), name, pa.array(column))

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *[(lambda t, name=name: t.drop_columns([name]), [f"'{name}' is missing"])
          for name in ("observation.state", "action", "next.reward", "next.done", "episode_index")],
        (lambda t: t.drop_columns(["frame_index", "index"]), ["'frame_index' is missing"]),
        (replaced("next.reward", None, [7]), ["next.reward row 7", "null"]),
        (replaced("next.reward", float("nan"), [7]), ["next.reward row 7", "nan"]),
        (replaced("next.reward", "x"), ["next.reward", "numbers", "string"]),
        (replaced("next.reward", [1.0, 2.0]), ["next.reward", "(2,)", "one value"]),
        (replaced("action", [1.0, 2.0], [3]), ["action row 3 has 2"]),
        (replaced("action", [float("inf")], [3]), ["action row 3", "inf"]),
        (replaced("action", None, [3]), ["action row 3", "null"]),
        (replaced("action", [11.0], [3]), ["actions row 3", "11", "outside"]),
        (replaced("observation.state", [None], [2]), ["observation.state row 2", "null"]),
        (replaced("observation.state", []), ["'observation.state' is missing or does not hold numbers"]),
        (replaced("observation.state", "x"), ["'observation.state' is missing or does not hold numbers"]),
        (replaced("episode_index", 1.5), ["episode_index", "integers"]),
        (replaced("frame_index", 0), ["frame_index goes from 0 to 0 in episode 1"]),
        (lambda t: pa.concat_tables([t.slice(0, 1), t.slice(2)]), ["frame_index goes from 0 to 2 in episode 1"]),
        (replaced("next.done", True, [0]), ["row 0 is terminated"]),
        (replaced("next.done", 0.5), ["next.done row 0", "0.5"]),
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
        (replaced("action", [1.0, 2.0]), ["action", "(2,)", "(1,)"]),
        (replaced("next.reward", None, [1]), ["next.reward row 1", "null"]),
    ],
)
def test_wrong_shards_of_parquet_are_named(tmp_path, change, words):
    pq.write_table(frames().slice(0, 5), tmp_path / "a.parquet")
    pq.write_table(change(frames().slice(5)), tmp_path / "b.parquet")
    with pytest.raises(DatasetError) as error:
        load_dataset(tmp_path, ACTION_SPACE)
    for word in [*words, "b.parquet", str(tmp_path)]:
        assert word in str(error.value)


# --- load_dataset -----------------------------------------------------------------------------------------------------


def test_folders_of_nothing_known_are_named(tmp_path):
    with pytest.raises(DatasetError, match="unknown kind of folder"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="unknown file format"):
        load_dataset(tmp_path / "nothing-there")


def test_a_folder_with_some_metadata_is_not_minaris(tmp_path):
    pq.write_table(frames(), tmp_path / "a.parquet")
    (tmp_path / "metadata.json").write_text("{}")
    assert_is_table(load_dataset(tmp_path, ACTION_SPACE), PARQUET_TABLE)


def test_folders_are_cached_until_they_change(tmp_path):
    pq.write_table(frames(), tmp_path / "a.parquet")
    first = load_dataset(tmp_path, ACTION_SPACE)
    assert load_dataset(tmp_path, ACTION_SPACE) is first
    pq.write_table(frames().slice(0, 5), tmp_path / "a.parquet")
    assert len(load_dataset(tmp_path, ACTION_SPACE)) == 4


def test_missing_libraries_are_named_with_the_command(tmp_path, monkeypatch):
    pq.write_table(frames(), tmp_path / "a.parquet")
    for module in ("minari", "pyarrow", "pyarrow.parquet", "pyarrow.types"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=r'pip install "sb3-pg-extras\[minari\]"'):
        load_dataset("minari:ten/digits-v0")
    for source in (tmp_path / "a.parquet", IMITATION):
        with pytest.raises(MissingPackageError, match=r'pip install "sb3-pg-extras\[parquet\]"'):
            load_dataset(source, ACTION_SPACE)
    with pytest.raises(DatasetError, match="expected an OfflineDataset"):
        load_dataset(SimpleNamespace())
