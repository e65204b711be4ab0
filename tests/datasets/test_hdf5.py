"""D4RL, robomimic and d3rlpy files: five episodes against a table worked out by hand, and damaged files."""

import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from five_episodes import (
    FIXTURES,
    FLAT,
    STEPS,
    TERMINALS,
    actions,
    content_of,
    observations,
    write,
    write_formats,
    write_robomimic,
)
from gymnasium import spaces

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.readers.hdf5 import load_hdf5

# Without next observations, 22 and 51 have none and are lost. What the rows are then:
#                                                                          step  next  end of episode
TABLE = [
    (10, 11, ""),
    (11, 12, ""),
    (12, 12, "terminated"),
    (20, 21, ""),
    (21, 22, "truncated"),
    (30, 30, "terminated"),
    (40, 41, ""),
    (41, 41, "terminated"),
    (50, 51, "cut"),
]
# With them nothing is lost: each leads to the next number, whatever the next row is.
FULL_TABLE = [
    (10, 11, ""),
    (11, 12, ""),
    (12, 13, "terminated"),
    (20, 21, ""),
    (21, 22, ""),
    (22, 23, "truncated"),
    (30, 31, "terminated"),
    (40, 41, ""),
    (41, 42, "terminated"),
    (50, 51, ""),
    (51, 52, "cut"),
]


def replaced(table, *rows):
    """The table with the ends of some steps replaced."""
    ends = dict(rows)
    return [(step, following, ends.get(step, end)) for step, following, end in table]


def assert_is(dataset: OfflineDataset, table) -> None:
    steps, following, ends = zip(*table, strict=True)
    np.testing.assert_array_equal(dataset.observations, observations(steps))
    np.testing.assert_array_equal(dataset.next_observations, observations(following))
    np.testing.assert_array_equal(dataset.actions, actions(steps))
    np.testing.assert_array_equal(dataset.rewards, (np.array(steps) / 10).astype(np.float32))
    assert dataset.terminations.tolist() == [end == "terminated" for end in ends]
    assert dataset.truncations.tolist() == [end == "truncated" for end in ends]
    assert dataset.episode_ends.tolist() == [row for row, end in enumerate(ends, 1) if end]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "x.hdf5"


# --- D4RL -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"compression": "gzip"}, {"chunks": True, "shuffle": True}])
def test_d4rl_without_next_observations(path, kwargs):
    extra = {"infos/qpos": np.zeros((11, 3)), "metadata/algorithm": np.bytes_("SAC")}
    with h5py.File(write(path, FLAT, **kwargs), "a") as file:
        for name, value in extra.items():
            file[name] = value
    dataset = load_dataset(path)
    assert_is(dataset, TABLE)
    assert dataset.action_space == spaces.Box(-1, 1, (2,), np.float32)
    # The truncated episode's return lacks the lost step's 2.2; the cut one has none.
    np.testing.assert_allclose(dataset.episode_returns(), [3.3, 4.1, 3.0, 8.1], rtol=1e-6)


def test_d4rl_with_next_observations(path):
    assert_is(load_dataset(write(path, FLAT | {"next_observations": observations(STEPS + 1)})), FULL_TABLE)


def test_d4rl_without_timeouts(path):
    """Only terminals are known: 22 seems to lead to 30, the next row of what looks like one episode."""
    arrays = {name: array for name, array in FLAT.items() if name != "timeouts"}
    table = [*replaced(TABLE, (21, ""))[:5], (22, 30, ""), *TABLE[5:]]
    assert_is(load_dataset(write(path, arrays)), table)


def test_d4rl_that_ends_with_a_terminal_loses_no_row(path):
    arrays = {name: array[:9] for name, array in FLAT.items()}
    assert_is(load_dataset(write(path, arrays)), TABLE[:-1])


def test_d4rl_single_steps_that_time_out_vanish(path):
    arrays = {name: array[4:8] for name, array in FLAT.items()}  # 21 22 30 40
    arrays["timeouts"] = np.array([1, 1, 0, 0])
    assert_is(load_dataset(write(path, arrays)), [(30, 30, "terminated")])
    arrays["terminals"] = np.zeros((4, 1))
    arrays["timeouts"] = np.ones((4, 1))
    with pytest.raises(DatasetError, match="no row has a next observation"):
        load_dataset(write(path, arrays))


def test_d4rl_other_dtypes_and_action_space(path):
    arrays = FLAT | {"observations": FLAT["observations"].astype(">f8"), "rewards": FLAT["rewards"][:, np.newaxis]}
    arrays["actions"] = FLAT["actions"].astype(np.float64) * 3
    arrays["terminals"] = TERMINALS.astype(np.uint8)
    with pytest.raises(DatasetError, match=r"x\.hdf5: actions row 7 .*\[-1, 1\].*action_space"):
        load_dataset(write(path, arrays))
    space = spaces.Box(-2, 2, (2,), np.float32)
    dataset = load_dataset(path, space)
    assert dataset.action_space == space
    np.testing.assert_allclose(dataset.actions, 3 * actions([row[0] for row in TABLE]), rtol=1e-6)
    np.testing.assert_array_equal(dataset.observations, observations([row[0] for row in TABLE]))


def test_rows_are_moved_right_across_parts(path, monkeypatch):
    """The same as a plain computation, with parts much smaller than the file."""
    rng = np.random.default_rng(0)
    n = 1000
    terminals, timeouts = rng.random((2, n)) < 0.2
    states = np.arange(n, dtype=np.float32)[:, np.newaxis]
    arrays = {
        "observations": states,
        "actions": states / n,
        "rewards": states[:, 0],
        "terminals": terminals,
        "timeouts": timeouts,
    }
    monkeypatch.setattr("sb3_pg_extras.datasets.rows.CHUNK", 7)
    dataset = load_dataset(write(path, arrays))
    lost = timeouts & ~terminals
    lost[-1] = not terminals[-1]
    kept = np.flatnonzero(~lost)
    np.testing.assert_array_equal(dataset.observations[:, 0], kept)
    np.testing.assert_array_equal(dataset.next_observations[:, 0], np.where(terminals[kept], kept, kept + 1))
    np.testing.assert_array_equal(dataset.rewards, kept)
    np.testing.assert_array_equal(dataset.terminations, terminals[kept])
    # Truncated: what leads to a lost timeout of the same episode.
    ends, following = terminals | timeouts, np.minimum(kept + 1, n - 1)
    np.testing.assert_array_equal(dataset.truncations, (timeouts & ~terminals)[following] & ~ends[kept])
    episode = np.append(0, np.cumsum(ends)[:-1])[kept]
    np.testing.assert_array_equal(dataset.episode_ends, np.append(np.flatnonzero(np.diff(episode)) + 1, len(kept)))


# --- robomimic --------------------------------------------------------------------------------------------------------


# Demonstrations are episodes by themselves, so the cut one counts as truncated.
def test_robomimic_without_next_obs(path):
    # Written in another order: demo_10 comes after demo_3, not after demo_1.
    dataset = load_dataset(write_robomimic(path, order=(10, 3, 1, 0, 2)))
    assert_is(dataset, replaced(TABLE, (50, "truncated")))
    assert (dataset.env_id, dataset.action_space) == ("Lift", spaces.Box(-1, 1, (2,), np.float32))


def test_robomimic_with_next_obs(path):
    assert_is(load_dataset(write_robomimic(path, next_obs=True)), replaced(FULL_TABLE, (51, "truncated")))


@pytest.mark.parametrize("next_obs", [False, True])
def test_robomimic_of_several_keys_is_a_dict(path, next_obs):
    dataset = load_dataset(write_robomimic(path, ("state", "other"), next_obs))
    assert isinstance(dataset.observation_space, spaces.Dict)
    table = FULL_TABLE if next_obs else TABLE
    for key in ("state", "other"):
        np.testing.assert_array_equal(dataset.observations[key], observations([row[0] for row in table]))
        np.testing.assert_array_equal(dataset.next_observations[key], observations([row[1] for row in table]))
    one = load_dataset(path, observation_keys=["state"])
    np.testing.assert_array_equal(one.observations, dataset.observations["state"])


def test_robomimic_images_stay_bytes(path):
    with h5py.File(write_robomimic(path), "a") as file:
        for name in ("demo_0", "demo_1", "demo_2", "demo_3", "demo_10"):
            steps = file[f"data/{name}/obs/state"][:, 0].astype(np.uint8)
            file[f"data/{name}/obs/image"] = np.tile(steps[:, None, None, None], (1, 4, 4, 3))
    dataset = load_dataset(path)
    assert dataset.observation_space["image"] == spaces.Box(0, 255, (4, 4, 3), np.uint8)
    assert dataset.observations["image"].dtype == np.uint8
    assert dataset.observations["image"][:, 3, 3, 2].tolist() == [row[0] for row in TABLE]
    assert dataset.next_observations["image"][:, 3, 3, 2].tolist() == [row[1] for row in TABLE]


def test_robomimic_done_in_the_middle_ends_an_episode(path):
    with h5py.File(write_robomimic(path), "a") as file:
        file["data/demo_0/dones"][0] = 1
    table = [(10, 10, "terminated"), *replaced(TABLE, (50, "truncated"))[1:]]
    assert_is(load_dataset(path), table)


# --- d3rlpy -----------------------------------------------------------------------------------------------------------


def test_d3rlpy_continuous():
    """Written by d3rlpy 2.8.1 (fixtures/make_d3rlpy.py), which knows no timeouts: what does not terminate is truncated."""
    dataset = load_dataset(FIXTURES / "d3rlpy_continuous.h5")
    assert_is(dataset, replaced(TABLE, (50, "truncated")))
    assert dataset.action_space == spaces.Box(-1, 1, (2,), np.float32)


def test_d3rlpy_discrete():
    dataset = load_dataset(FIXTURES / "d3rlpy_discrete.h5")
    assert dataset.actions.tolist() == [1, 2, 0, 2, 0, 0, 1, 2, 2]
    assert dataset.action_space == spaces.Discrete(3)
    assert load_dataset(FIXTURES / "d3rlpy_discrete.h5", spaces.Discrete(5)).action_space == spaces.Discrete(5)
    with pytest.raises(DatasetError, match=r"d3rlpy_discrete\.h5: actions row 1 is 2"):
        load_dataset(FIXTURES / "d3rlpy_discrete.h5", spaces.Discrete(2))


def test_d3rlpy_tuples_of_observations_are_refused_by_name(path):
    write(path, {"num_episodes": 1, **{f"observations_0_{i}": np.zeros((3, 2)) for i in (0, 1)}})
    with pytest.raises(DatasetError, match=r"x\.hdf5: field 'observations_0_0': tuples of observations are not supported"):
        load_dataset(path)


# --- which format -----------------------------------------------------------------------------------------------------


def test_unknown_content_is_listed(path):
    write(path, {"states": [1.0], "acts": [2.0]})
    with pytest.raises(DatasetError, match=r"x\.hdf5.*D4RL.*robomimic.*d3rlpy.*\['acts', 'states'\]"):
        load_dataset(path)
    with pytest.raises(DatasetError, match=r"none\.h5.*no such file"):
        load_dataset(path.with_name("none.h5"))
    write(path, FLAT | {"episode_terminals": TERMINALS})
    with pytest.raises(DatasetError, match=r"episode_terminals.*d3rlpy 1"):
        load_dataset(path)


def test_h5py_is_optional(path, monkeypatch):
    write(path, FLAT)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=rf"{path}: .*pip install \"sb3-pg-extras\[hdf5\]\""):
        load_dataset(path)


# --- damaged files ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    return write_formats(tmp_path_factory.mktemp("whole"))


FORMATS = ["d4rl", "d4rl-gzip", "robomimic", "d3rlpy"]


@pytest.mark.parametrize("name", FORMATS)
def test_cut_anywhere(tmp_path, whole, name):
    content = whole[name].read_bytes()
    path = tmp_path / "x.h5"
    for length in np.linspace(0, len(content) - 1, 60).astype(int).tolist():
        path.write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"x\.h5"):
            load_hdf5(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
@pytest.mark.parametrize(
    ("name", "field", "row"),
    [
        ("d4rl", "observations", 5),
        ("d4rl", "actions", 10),
        ("d4rl-gzip", "next_observations", 0),
        ("d4rl", "rewards", 7),
        ("robomimic", "data/demo_10/obs/state", 1),
        ("robomimic", "data/demo_3/next_obs/other", 0),
        ("d3rlpy", "rewards_1", 2),
    ],
)
def test_values_that_are_not_finite_are_named_by_field_and_row(tmp_path, whole, name, field, row, value, monkeypatch):
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.hdf5_arrays.PART", 8)  # a row or two at a time
    arrays = content_of(whole[name])
    arrays[field] = arrays[field].astype(np.float64)
    arrays[field][row] = value
    with pytest.raises(DatasetError, match=rf"x\.h5: field '{field}' row {row} is not finite"):
        load_hdf5(write(tmp_path / "x.h5", arrays))


@pytest.mark.parametrize(
    ("name", "field", "row"), [("d4rl", "terminals", 3), ("d4rl", "timeouts", 8), ("robomimic", "data/demo_10/dones", 1)]
)
def test_flags_that_are_none_are_named_by_field_and_row(tmp_path, whole, name, field, row):
    arrays = content_of(whole[name])
    arrays[field] = arrays[field].astype(np.int64)
    arrays[field][row] = 2
    with pytest.raises(DatasetError, match=rf"x\.h5: field '{field}' row {row} is 2: flags"):
        load_hdf5(write(tmp_path / "x.h5", arrays))


@pytest.mark.parametrize("name", FORMATS)
def test_each_missing_array_is_named(tmp_path, whole, name):
    arrays = content_of(whole[name])
    optional = {"timeouts", "next_observations"}
    for field in sorted(set(arrays) - optional):
        if not field.endswith("states"):
            rest = {other: array for other, array in arrays.items() if other != field}
            with pytest.raises(DatasetError, match=rf"'{field}' is missing: found \["):
                load_hdf5(write(tmp_path / "x.h5", rest))


def with_external_storage(file: h5py.File, other: Path) -> None:
    file.create_dataset("rewards", (11,), np.float32, external=[(str(other), 0, 44)])


def with_virtual_dataset(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((11,), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "rewards", (11,))
    file.create_virtual_dataset("rewards", layout)


@pytest.mark.parametrize(
    ("put", "word"),
    [
        (lambda file, other: file.update({"rewards": h5py.ExternalLink(other, "rewards")}), "link"),
        (lambda file, other: file.update({"rewards": h5py.SoftLink("/actions")}), "link"),
        (lambda file, other: file.update({"rewards": h5py.SoftLink("/nowhere")}), "link"),
        (with_external_storage, "another file"),
        (with_virtual_dataset, "another file"),
        (lambda file, other: file.create_dataset("rewards", (11,), h5py.vlen_dtype(np.float32)), "numbers"),
        (lambda file, other: file.create_dataset("rewards", (11,), h5py.string_dtype()), "numbers"),
        (lambda file, other: file.create_dataset("rewards", (11,), h5py.ref_dtype), "numbers"),
        (lambda file, other: file.create_dataset("rewards", (11,), np.dtype((np.float32, (2,)))), "numbers"),
        (lambda file, other: file.create_group("rewards"), "array"),
        (lambda file, other: file.update({"rewards": np.dtype(np.float32)}), "array"),
    ],
)
def test_what_is_no_array_of_this_file_is_refused(tmp_path, put, word):
    other = write(tmp_path / "other.h5", FLAT)
    with h5py.File(write(tmp_path / "x.h5", {k: v for k, v in FLAT.items() if k != "rewards"}), "a") as file:
        put(file, other)
    with pytest.raises(DatasetError, match=rf"x\.h5: field 'rewards' .*{word}"):
        load_hdf5(tmp_path / "x.h5")


def test_a_linked_group_is_refused(tmp_path):
    other = write_robomimic(tmp_path / "other.h5")
    with h5py.File(write_robomimic(tmp_path / "x.h5"), "a") as file:
        del file["data/demo_2/obs"]
        file["data/demo_2/obs"] = h5py.ExternalLink(other, "data/demo_2/obs")
    with pytest.raises(DatasetError, match=r"x\.h5: field 'data/demo_2/obs' is refused: it is a link"):
        load_hdf5(tmp_path / "x.h5")


@pytest.mark.parametrize("kwargs", [{}, {"chunks": (1024,)}, {"chunks": (1 << 20,), "compression": "gzip"}])
def test_sizes_that_the_file_cannot_hold_are_refused(tmp_path, kwargs):
    """Arrays of 4 TB that were never written read as zeros: nothing must be allocated for them."""
    with h5py.File(write(tmp_path / "x.h5", FLAT), "a") as file:
        del file["rewards"]
        rewards = file.create_dataset("rewards", (10**12,), np.float32, **kwargs)
        if "compression" in kwargs:
            rewards[:100] = 1
    with pytest.raises(DatasetError, match=r"x\.h5: field 'rewards' of shape \(1000000000000,\) needs 4000000000000 bytes"):
        load_hdf5(tmp_path / "x.h5")


def test_arrays_that_were_not_written_to_the_end_are_refused(tmp_path):
    with h5py.File(write(tmp_path / "x.h5", {k: v for k, v in FLAT.items() if k != "rewards"}), "a") as file:
        file.create_dataset("rewards", (11,), np.float32, chunks=(4,), compression="gzip")[:8] = 1
    with pytest.raises(DatasetError, match=r"x\.h5: field 'rewards' .*not written to the end"):
        load_hdf5(tmp_path / "x.h5")


def test_many_names_of_one_array_are_refused(tmp_path):
    """Fifty episodes that are one: many such names would let a small file fill the memory."""
    arrays = {"num_episodes": 50, **{f"{name}_0": np.zeros((1000, 1)) for name in ("observations", "actions", "rewards")}}
    with h5py.File(write(tmp_path / "x.h5", arrays), "a") as file:
        for number in range(50):
            file[f"terminated_{number}"] = True
            for name in ("observations", "actions", "rewards"):
                if number:
                    file[f"{name}_{number}"] = file[f"{name}_0"]
    with pytest.raises(DatasetError, match=r"x\.h5: field 'observations_\d+' .*claims more than the file's"):
        load_hdf5(tmp_path / "x.h5")


def test_counts_that_do_not_agree_are_named(tmp_path):
    arrays = content_of(FIXTURES / "d3rlpy_discrete.h5")
    for count in (0, -1, 4, 6, 10**12):
        path = write(tmp_path / "x.h5", arrays | {"num_episodes": count})
        with pytest.raises(DatasetError, match=r"x\.h5: field '(num_episodes|observations_5)' is (-?\d+|missing)"):
            load_hdf5(path)
    with h5py.File(write_robomimic(tmp_path / "x.h5"), "a") as file:
        file["data"].attrs["env_args"] = "{"
    with pytest.raises(DatasetError, match=r"x\.h5: attribute 'env_args'"):
        load_hdf5(tmp_path / "x.h5")


def test_a_robomimic_success_before_the_last_step_is_of_known_meaning(tmp_path):
    """robomimic sets done at the last step whatever the reason; one in the middle is a terminal state."""
    with h5py.File(write_robomimic(tmp_path / "x.hdf5"), "a") as file:
        for name, demo in file["data"].items():
            demo["dones"][:] = 0
            if name == "demo_0":
                demo["dones"][1] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_dataset(tmp_path / "x.hdf5").terminations.sum() == 1
