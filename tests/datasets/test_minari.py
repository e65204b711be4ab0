"""Minari's own files against a table worked out by hand; what is written to Minari comes back exactly."""

import json
import shutil
from pathlib import Path

import gymnasium as gym
import h5py
import minari
import numpy as np
import pytest
from conftest import make_arrays
from five_episodes import ACTION_SPACE, OBSERVATION_SPACE, TABLE, assert_is_table, assert_same, minari_buffers
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets import save_dataset
from sb3_pg_extras.datasets.readers.minari import load_minari


@pytest.fixture(autouse=True)
def minari_root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


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
    endings=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=5),
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
    terminations[ends - 1], truncations[ends - 1] = np.array(endings[: len(lengths)], bool).T
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
        (hdf5_without("episode_3/rewards"), ["'episode_3/rewards' is missing"]),
        (hdf5_without("episode_3"), ["total_episodes is 5", "there are 4"]),
        (hdf5_with("episode_0/observations", np.zeros((3, 1))), ["episode 0: observations has 3 rows", "expected 4"]),
        (hdf5_with("episode_0/actions", np.zeros((4, 1))), ["episode 0: actions has 4 rows", "expected 3"]),
        (hdf5_with("episode_1/actions", np.zeros((2, 2))), ["episode 1: actions", "(2,)"]),
        (hdf5_with("episode_0/rewards", np.array([0, np.nan, 0])), ["rewards row 1", "nan"]),
        (hdf5_with("episode_0/rewards", 1.0), ["rewards"]),
        (hdf5_with("episode_0/actions", {"x": np.zeros((3, 1))}), ["'episode_0/actions' must be an array"]),
        (hdf5_with("episode_1/observations", {"x": np.zeros((3, 1))}), ["'episode_1/observations' must be an array"]),
        (hdf5_with("episode_0/rewards", [b"a", b"b", b"c"]), ["episode 0: rewards", "numbers"]),
        (hdf5_with("episode_0/terminations", [1, 0, 0]), ["row 0 is terminated"]),
        (hdf5_with("episode_0/actions", np.full((3, 1), 11)), ["actions row 0", "11"]),
        (hdf5_with("episode_0/observations", h5py.ExternalLink("/etc/hostname", "/x")), ["observations", "link"]),
        (lambda f: f.create_dataset("episode_0/infos", (10**13,), float, chunks=(10**9,)), ["80000000000000 bytes, but 0"]),
        (lambda f: f.create_dataset("episode_0/infos", (10**8,), bool, chunks=(1,)), ["infos", "100000000 bytes, but 0"]),
        (lambda f: f.create_group("episode_0/infos").__setitem__("again", f["episode_0/infos"]), ["infos", "several names"]),
        (lambda f: f.__setitem__("episode_0/infos/x", f["episode_1/rewards"]), ["several names"]),
        (lambda f: f.create_group("episode_0/infos" + "/deeper" * 99), ["more than 64 groups deep"]),
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


@pytest.mark.usefixtures("minari_root")
def test_the_row_that_jumps_is_named_whatever_ended_before():
    arrays = make_arrays()
    arrays["next_observations"] = arrays["next_observations"].copy()
    arrays["next_observations"][25] += 1.0
    with pytest.raises(DatasetError, match="next_observations row 25 is not observations row 26"):
        save_dataset(OfflineDataset(**arrays), "minari:new-v0")
