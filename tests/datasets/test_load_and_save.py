"""load_dataset and save_dataset: .npz files and bundled datasets, what is cached, what is unknown."""

import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import make_arrays
from five_episodes import ACTION_SPACE, IMITATION, assert_same, frames
from gymnasium import spaces
from hostile import Evil

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.common.optional import MissingPackageError
from sb3_pg_extras.datasets import save_dataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.datasets.load import BUNDLED_DATASETS
from sb3_pg_extras.datasets.spaces import space_from_json, space_to_json

# --- NPZ --------------------------------------------------------------------------------------------------------------


def test_npz_round_trip(arrays, tmp_path):
    dataset = OfflineDataset(
        **arrays, env_id="Made-up-v0", reference_scores=(-0.1, 3234.3), episode_ends=[10, 15, 20, 30, 40]
    )
    save_dataset(dataset, tmp_path / "new" / "x.npz")
    loaded = load_dataset(tmp_path / "new" / "x.npz")
    assert_same(loaded, dataset)
    assert (loaded.env_id, loaded.reference_scores) == ("Made-up-v0", (-0.1, 3234.3))


def test_npz_round_trip_of_images_dicts_and_discrete_actions(tmp_path):
    rng = np.random.default_rng(0)
    observations = {"image": rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), "speed": rng.normal(size=(6, 1))}
    space = spaces.Dict(image=spaces.Box(0, 255, (8, 8, 3), np.uint8), speed=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    dataset = OfflineDataset(
        observations, np.array([1, 2, 3, 1, 2, 3]), np.zeros(6), observations, np.zeros(6), np.zeros(6),
        space, spaces.Discrete(3, start=1),
    )  # fmt: skip
    save_dataset(dataset, tmp_path / "x.npz")
    assert_same(load_dataset(str(tmp_path / "x.npz")), dataset)
    with pytest.raises(DatasetError, match="row 2"):
        OfflineDataset(
            **{f: getattr(dataset, f) for f in ARRAY_FIELDS}, observation_space=space, action_space=spaces.Discrete(3)
        )


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3), np.float32),
        spaces.Box(np.array([-np.inf, 0]), np.array([1.1, np.inf]), dtype=np.float64),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 0]]),
        spaces.MultiBinary(4),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1)),
    ],
)
def test_spaces_round_trip(space):
    assert space_from_json(space_to_json(space)) == space


def test_files_that_cannot_be_read_are_named(arrays, tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(DatasetError, match=r"x\.npz.*no such file"):
        load_dataset(path)
    save_dataset(OfflineDataset(**arrays), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"x\.npz"):
            load_dataset(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(DatasetError, match="single array"):
        load_dataset(path)
    with pytest.raises(DatasetError, match=r"\.csv"):
        load_dataset("x.csv")


def test_npz_with_pickled_objects_is_refused_and_not_run(arrays, tmp_path):
    path, mark = tmp_path / "x.npz", tmp_path / "was-run"
    evil = np.array([Evil(f"touch {mark}")] * 40)
    np.savez(path, **{name: arrays[name] for name in ARRAY_FIELDS} | {"rewards": evil})
    with pytest.raises(DatasetError, match=r"x\.npz"):
        load_dataset(path, arrays["action_space"])
    assert not mark.exists()


def test_a_failed_write_leaves_the_old_file(arrays, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")

    def fail(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_dataset(OfflineDataset(**arrays), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named_with_what_can(arrays, tmp_path):
    for target in (tmp_path / "x.hdf5", "bundled:mine", "hopper/medium-v0"):
        with pytest.raises(DatasetError, match=r'what can be written is "x\.npz" or "minari:<id>"') as error:
            save_dataset(OfflineDataset(**arrays), target)
        assert str(target) in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("compress", [True, False])
def test_a_file_is_compressed_unless_asked_otherwise(arrays, tmp_path, compress):
    dataset = OfflineDataset(**arrays | {"rewards": np.zeros(40)})
    save_dataset(dataset, tmp_path / "x.npz", compress=compress)
    assert (dataset.rewards.tobytes() in (tmp_path / "x.npz").read_bytes()) is not compress
    assert_same(load_dataset(tmp_path / "x.npz"), dataset)


def test_files_are_cached_until_they_change(arrays, tmp_path):
    path = tmp_path / "x.npz"
    save_dataset(OfflineDataset(**arrays), path)
    first = load_dataset(path)
    assert load_dataset(path) is first
    assert load_dataset(path, first.action_space) is first
    save_dataset(OfflineDataset(**make_arrays(50)), path)
    assert len(load_dataset(path)) == 50


def test_bundled_datasets_load_and_match_their_cards():
    for env_id, name in BUNDLED_DATASETS.items():
        dataset = load_dataset(f"bundled:{name}")
        assert dataset.env_id == env_id
        env = gym.make(env_id)
        assert (dataset.observation_space, dataset.action_space) == (env.observation_space, env.action_space)
        folder = Path(load_dataset.__globals__["__file__"]).parent / "bundled"
        assert (folder / f"{name}.npz").stat().st_size <= 2_000_000
        assert (
            f"| **the whole dataset** | {dataset.n_episodes} | {dataset.episode_returns().mean():.1f} |"
            in (folder / f"{name}.md").read_text()
        )
    with pytest.raises(DatasetError, match="pendulum"):
        load_dataset("bundled:nothing")


# --- load_dataset -----------------------------------------------------------------------------------------------------


def test_folders_of_nothing_known_are_named(tmp_path):
    with pytest.raises(DatasetError, match="unknown kind of folder"):
        load_dataset(tmp_path)
    with pytest.raises(DatasetError, match="unknown file format"):
        load_dataset(tmp_path / "nothing-there")


def test_a_folder_with_some_metadata_is_not_minaris(tmp_path):
    pq.write_table(frames(), tmp_path / "a.parquet")
    (tmp_path / "metadata.json").write_text("{}")
    assert_same(load_dataset(tmp_path, ACTION_SPACE), load_dataset(tmp_path / "a.parquet", ACTION_SPACE))


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


# --- what it is, and what to do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("mujoco/hopper/medium-v0", "minari:mujoco/hopper/medium-v0"),
        ("hopper/medium-v0", "minari:hopper/medium-v0"),
        ("pendulum-mixed-v0", "bundled:pendulum-mixed-v0"),
    ],
)
def test_a_name_without_its_prefix_is_answered_with_it(source, meant):
    with pytest.raises(DatasetError, match=f'Did you mean "{meant}"'):
        load_dataset(source)


def test_a_part_of_a_minari_dataset_by_itself_is_answered_with_its_folder(arrays, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    save_dataset(OfflineDataset(**arrays), "minari:made/up-v0")
    data = tmp_path / "made/up-v0/data"
    with pytest.raises(DatasetError, match=f"a part of a Minari dataset. Pass the folder that holds it: {data}"):
        load_dataset(data / "main_data.hdf5")
    # Minari before 0.5 kept the metadata in the file.
    (data / "metadata.json").unlink()
    for source in (data, data.parent, "minari:made/up-v0"):
        with pytest.raises(DatasetError, match=r"has no metadata\.json: Minari before 0\.5 .*minari download"):
            load_dataset(source)
