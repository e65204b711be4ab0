"""OfflineDataset: what is accepted comes back exactly, what is not ends in one DatasetError that names it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_arrays
from five_episodes import assert_same, write
from gymnasium import spaces

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets import mapped as mapped_module
from sb3_pg_extras.datasets import save_dataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS, check_finite


def test_episodes_and_returns_by_hand(arrays):
    flags = {"terminations": np.zeros(6, bool), "truncations": np.zeros(6, bool)}
    flags["terminations"][1] = flags["truncations"][4] = True
    rewards = np.array([1, 2, 10, 20, 30, 100], np.float32)
    dataset = OfflineDataset(
        **{name: value[:6] if isinstance(value, np.ndarray) else value for name, value in arrays.items()}
        | flags
        | {"rewards": rewards}
    )
    assert dataset.episode_ends.tolist() == [2, 5, 6]
    assert dataset.episode_lengths().tolist() == [2, 3, 1]
    # The last episode is cut by the end of the data: it has no return.
    assert dataset.episode_returns().tolist() == [3.0, 60.0]
    assert "3 episodes" in repr(dataset)
    assert "mean return 31.5" in repr(dataset)


def test_dataset_is_read_only_and_leaves_the_callers_arrays_alone(arrays):
    dataset = OfflineDataset(**arrays)
    with pytest.raises(ValueError, match="read-only"):
        dataset.actions[0] = 0
    with pytest.raises(AttributeError):
        dataset.actions = arrays["actions"]  # type: ignore[misc]
    arrays["actions"][0] = 0  # still writable


def _set(arrays, name, index, value):
    array = np.array(arrays[name])
    if array.dtype == bool:
        array = array.astype(np.float32)
    array[index] = value
    return {name: array}


def _discrete_observations(row, value):
    states = np.arange(40) % 3
    following = states.astype(type(value))
    following[row] = value
    return {"observations": states, "next_observations": following, "observation_space": spaces.Discrete(3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: {k: v[:0] for k, v in a.items() if isinstance(v, np.ndarray)}, ["observations", "empty"]),
        (lambda a: _set(a, "observations", (7, 1), np.nan), ["observations", "row 7", "nan"]),
        (lambda a: _set(a, "next_observations", (3, 0), np.inf), ["next_observations", "row 3", "inf"]),
        (lambda a: _set(a, "rewards", 5, np.nan), ["rewards", "row 5"]),
        (lambda a: {"rewards": a["rewards"].astype(np.float64) * 1e300}, ["rewards", "row 0"]),
        (lambda a: _set(a, "actions", (2, 0), 3.5), ["actions", "row 2", "3.5", "outside"]),
        (lambda a: {"rewards": a["rewards"][:-1]}, ["rewards", "39", "40"]),
        (lambda a: {"observations": a["observations"][:, :2]}, ["observations", "(40, 2)", "(3,)"]),
        (lambda a: {"actions": a["actions"][:, :1]}, ["actions", "(40, 1)", "(2,)"]),
        (lambda a: {"rewards": np.zeros((40, 2))}, ["rewards", "(40, 2)"]),
        (lambda a: _set(a, "terminations", 4, 0.5), ["terminations", "row 4", "0.5"]),
        (lambda a: {"rewards": np.array(["x"] * 40)}, ["rewards", "numbers"]),
        (lambda a: {"rewards": [[1], [1, 2]]}, ["rewards", "rectangular"]),
        (lambda a: {"episode_ends": [5, 5, 40]}, ["episode_ends", "40"]),
        (lambda a: {"episode_ends": [40]}, ["row 9", "episode_ends"]),
        (lambda a: {"action_space": spaces.Text(3)}, ["actions", "Text"]),
        (lambda a: {"observation_space": spaces.Dict(x=spaces.Box(0, 1))}, ["observations", "dict", "x"]),
        (lambda a: {"reference_scores": (1.0,)}, ["reference_scores"]),
        (lambda a: {"reference_scores": (1.0, np.nan)}, ["reference_scores", "finite", "nan"]),
        (lambda a: {"action_space": spaces.MultiBinary(2), "actions": np.full((40, 2), 0.5)}, ["actions", "row 0", "0.5"]),
        (lambda a: _discrete_observations(7, 3), ["next_observations", "row 7", "3", "outside", "Discrete(3)"]),
        (lambda a: _discrete_observations(8, 0.5), ["next_observations", "row 8", "0.5", "outside"]),
        (lambda a: {"action_space": "Box"}, ["action_space", "gymnasium space", "'Box'"]),
        (lambda a: {"rewards": 1e308}, ["rewards", "single number"]),
    ],
)
def test_wrong_content_is_named(arrays, change, words):
    with pytest.raises(DatasetError) as error:
        OfflineDataset(**(arrays | change(arrays)))
    for word in words:
        assert word in str(error.value)


def test_a_dataset_error_is_not_what_the_zoo_prunes():
    assert not issubclass(DatasetError, (ValueError, AssertionError))


# --- dict of arrays ---------------------------------------------------------------------------------------------------


def test_dict_of_arrays_with_and_without_spaces(arrays):
    assert_same(load_dataset(arrays), OfflineDataset(**arrays))
    bare = {name: arrays[name] for name in ARRAY_FIELDS}
    assert load_dataset(bare, arrays["action_space"]).observation_space.shape == (3,)
    with pytest.raises(DatasetError, match="action_space"):
        load_dataset(bare)


def test_missing_and_unknown_fields_are_named(arrays):
    with pytest.raises(DatasetError, match="'rewards' is missing"):
        load_dataset({k: v for k, v in arrays.items() if k != "rewards"})
    with pytest.raises(DatasetError, match="'reward'"):
        load_dataset(arrays | {"reward": 1})
    with pytest.raises(DatasetError, match="int"):
        load_dataset(3)


# --- one number per row -----------------------------------------------------------------------------------------------


def numbers_as(path: Path, name: str) -> tuple[Any, spaces.Box | None]:
    """Three steps of one number each, without an axis of its own, in a format; and the action space to load them with."""
    s, a, r, done = np.arange(3.0), np.full(3, 0.1), np.ones(3), np.array([False, False, True])
    one = spaces.Box(-1, 1, (1,))
    fields = {"observations": s, "actions": a, "rewards": r, "next_observations": s + 1}
    fields |= {"terminations": done, "truncations": ~done & False}
    if name == "dict":
        return fields, one
    if name == "npz":
        np.savez(path / "x.npz", **fields)
        return path / "x.npz", one
    if name == "mapped npz":
        return {key: mapped(path / f"{key}.npy", value) for key, value in fields.items()}, one
    if name == "d4rl":
        return write(path / "x.hdf5", {"observations": s, "actions": a, "rewards": r, "terminals": done}), None
    if name == "d3rlpy":
        episode = {"observations_0": s, "actions_0": a, "rewards_0": r, "terminated_0": 1, "num_episodes": 1}
        return write(path / "x.h5", episode), None
    if name == "robomimic":
        demo = {"obs/x": s, "actions": a, "rewards": r, "dones": done}
        return write(path / "x.hdf5", {f"data/demo_0/{key}": value for key, value in demo.items()}), one
    assert name == "parquet"
    table = {"observation.state": s, "action": a, "next.reward": r, "next.done": done, "episode_index": [0] * 3}
    pq.write_table(pa.table(table | {"next.truncated": [False] * 3, "frame_index": [0, 1, 2]}), path / "x.parquet")
    return path / "x.parquet", one


def mapped(path: Path, array: np.ndarray) -> np.ndarray:
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("name", ["dict", "npz", "mapped npz", "d4rl", "d3rlpy", "robomimic", "parquet"])
@pytest.mark.filterwarnings("ignore:.*does not say")
def test_one_number_per_row_is_a_vector_of_length_one(tmp_path, name):
    source, action_space = numbers_as(tmp_path, name)
    dataset = load_dataset(source, action_space)
    assert dataset.observation_space.shape == dataset.action_space.shape == (1,)
    np.testing.assert_array_equal(dataset.observations, [[0], [1], [2]])
    np.testing.assert_allclose(dataset.actions, np.full((3, 1), 0.1), rtol=1e-6)
    assert dataset.next_observations.shape == (3, 1)


def test_one_number_per_row_in_a_dict_has_its_axis_too(arrays):
    observations = {"speed": np.arange(40.0), "state": arrays["observations"]}
    bare = {name: arrays[name] for name in ARRAY_FIELDS} | {"observations": observations, "next_observations": observations}
    dataset = load_dataset(bare, arrays["action_space"])
    assert {key: value.shape for key, value in dataset.observations.items()} == {"speed": (40, 1), "state": (40, 3)}
    assert dataset.observation_space["speed"].shape == (1,)


# --- options of load_dataset ------------------------------------------------------------------------------------------


def test_actions_outside_their_bounds_are_clipped_when_asked(arrays, tmp_path):
    space = arrays["action_space"]
    outside = arrays["actions"].copy()
    outside[3], outside[8, 1] = space.high + 2, space.low[1] - 0.5
    expected = outside.clip(space.low, space.high)
    source = arrays | {"actions": outside}
    np.savez(tmp_path / "x.npz", **{name: value for name, value in source.items() if name in ARRAY_FIELDS})
    mapped_source = source | {"actions": mapped(tmp_path / "a.npy", outside)}
    for given in (source, mapped_source, tmp_path / "x.npz"):
        with pytest.raises(DatasetError, match=r"actions row 3 .*clip_actions=True"):
            load_dataset(given, space)
        with pytest.warns(UserWarning, match="2 of 40 actions were outside .*, by at most 2: they are clipped"):
            dataset = load_dataset(given, space, clip_actions=True)
        np.testing.assert_array_equal(dataset.actions, expected)
        with pytest.raises(DatasetError, match="actions row 3"):  # also where it has just been loaded
            load_dataset(given, space)
    np.testing.assert_array_equal(source["actions"], outside)  # the caller's are not changed
    discrete = arrays | {"actions": np.full(40, 7), "action_space": spaces.Discrete(3)}
    with pytest.raises(DatasetError, match="actions row 0 is 7"):
        load_dataset(discrete, clip_actions=True)


def test_names_with_dots_are_kept_and_can_be_chosen(tmp_path):
    columns = {"observation.state.joints": [[0.0, 1.0]] * 3, "observation.state.gripper": [0.0, 1.0, 2.0]}
    columns |= {"observation.goal": [[5.0]] * 3, "action": [0.1] * 3, "next.reward": [1.0] * 3, "episode_index": [0] * 3}
    columns |= {"next.done": [False, False, True], "next.truncated": [False] * 3, "frame_index": [0, 1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    one = spaces.Box(-1, 1, (1,))
    assert set(load_dataset(tmp_path / "x.parquet", one).observation_space) == {"state.joints", "state.gripper", "goal"}
    two = load_dataset(tmp_path / "x.parquet", one, observation_keys=["goal", "state.joints"])
    assert {key: value.shape for key, value in two.observations.items()} == {"goal": (3, 1), "state.joints": (3, 2)}
    single = load_dataset(tmp_path / "x.parquet", one, observation_keys=["state.gripper"])
    assert single.observation_space == spaces.Box(-np.inf, np.inf, (1,))
    np.testing.assert_array_equal(single.next_observations, [[1], [2], [2]])
    for dataset in (two, single):
        save_dataset(dataset, tmp_path / "x.npz")
        assert_same(load_dataset(tmp_path / "x.npz"), dataset)
    for keys in (["joints"], []):
        with pytest.raises(DatasetError, match=r"observation_keys=.*\['goal', 'state.gripper', 'state.joints'\]"):
            load_dataset(tmp_path / "x.parquet", one, observation_keys=keys)
    with pytest.raises(DatasetError, match="a single array"):
        load_dataset(single, observation_keys=["state"])


@pytest.mark.parametrize(("excess", "fits"), [(0.9e-4, True), (2e-4, False)])
def test_an_action_may_be_outside_by_a_ten_thousandth_of_the_width(arrays, excess, fits):
    arrays["actions"][5, 0] = 3 + 5 * excess  # a width of 5
    if fits:
        OfflineDataset(**arrays)
    else:
        with pytest.raises(DatasetError, match="actions row 5"):
            OfflineDataset(**arrays)


def test_each_dimension_has_its_own_bounds(arrays):
    arrays["actions"][7, 1] = 2.5  # within those of the first dimension, [-2, 3], not of the second, [0, 1]
    with pytest.raises(DatasetError, match="actions row 7"):
        OfflineDataset(**arrays)


def test_a_bound_on_one_side_is_one(arrays):
    arrays["action_space"] = spaces.Box(np.array([-2, 0], np.float32), np.array([3, np.inf], np.float32))
    arrays["actions"][4, 1] = -0.5
    with pytest.raises(DatasetError, match="actions row 4"):
        OfflineDataset(**arrays)
    arrays["actions"][4, 1] = 1e6
    OfflineDataset(**arrays)


def test_choices_end_one_below_their_number(arrays):
    space = spaces.MultiDiscrete([2, 3], start=[0, 1])
    taken = np.tile([1, 3], (40, 1))
    OfflineDataset(**arrays | {"actions": taken, "action_space": space})
    for row, dimension, value in ((6, 0, 2), (9, 1, 4), (3, 1, 0)):
        wrong = taken.copy()
        wrong[row, dimension] = value
        with pytest.raises(DatasetError, match=f"actions row {row}"):
            OfflineDataset(**arrays | {"actions": wrong, "action_space": space})


def test_rows_are_numbered_over_all_parts_of_a_mapped_array(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_module, "PART", 80)  # ten rows
    arrays["actions"][25, 0] = 9.0
    np.save(tmp_path / "a.npy", arrays["actions"])
    with pytest.raises(DatasetError, match="actions row 25"):
        OfflineDataset(**arrays | {"actions": np.load(tmp_path / "a.npy", mmap_mode="r")})
    with pytest.raises(DatasetError, match="x row 107 is not finite"):
        check_finite("x", np.where(np.arange(10) == 7, np.nan, 0.0), 100)


def test_episodes_have_at_least_one_row(arrays):
    with pytest.raises(DatasetError, match="episode_ends must increase from at least 1"):
        OfflineDataset(**arrays, episode_ends=[0, 10, 20, 30, 40])


def test_without_a_complete_episode_returns_are_those_of_the_cut_ones(arrays):
    arrays |= {"terminations": np.zeros(40, bool), "truncations": np.zeros(40, bool), "rewards": np.ones(40)}
    assert OfflineDataset(**arrays).episode_returns().tolist() == [40.0]


def test_long_returns_are_summed_in_double_precision():
    n = 1 << 16
    arrays = make_arrays(n) | {
        "terminations": np.zeros(n, bool),
        "truncations": np.zeros(n, bool),
        "rewards": np.full(n, 0.1),
    }
    assert OfflineDataset(**arrays).episode_returns()[0] == pytest.approx(n * float(np.float32(0.1)), rel=1e-9)


def test_numbers_that_float32_keeps_are_not_warned_of(arrays):
    """A range of a hundred-thousandth of their size: float32 tells over 100 of them apart."""
    source = arrays | {"observations": 1e3 + 0.02 * np.arange(120.0).reshape(40, 3) / 120}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(source)
