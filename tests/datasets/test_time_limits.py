"""A time limit is not a terminal state: the next value counts. Each source's flags against values worked out by hand."""

import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from five_episodes import ACTION_SPACE, FLAT, IMITATION, fill, write, write_robomimic
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_pg_extras import DatasetError, load_dataset

TWO = spaces.Box(-1, 1, (2,))
F, T = False, True


def frames(path, **more):
    """A file of one episode of three frames, as LeRobot writes them."""
    table = {
        "observation.state": [[0.0], [1.0], [2.0]],
        "action": [[0.1, 0.1]] * 3,
        "next.reward": [1.0] * 3,
        "next.done": [F, F, T],
        "episode_index": [0] * 3,
        "frame_index": [0, 1, 2],
    }
    pq.write_table(pa.table(table | more), path / "f.parquet")
    return path / "f.parquet"


def test_done_at_a_time_limit_is_no_terminal_state(tmp_path):
    dataset = load_dataset(frames(tmp_path, **{"next.truncated": [F, F, T]}), TWO)
    assert dataset.terminations.tolist() == [F, F]
    assert dataset.truncations.tolist() == [F, T]  # row 2 has no next observation
    dataset = load_dataset(frames(tmp_path, **{"next.truncated": [F, F, F]}), TWO)
    assert dataset.terminations.tolist() == [F, F, T]


def test_an_end_within_an_episode_is_named_as_the_file_calls_it(tmp_path):
    with pytest.raises(DatasetError, match=r"next\.done is set at frame_index 1 of episode 0, which goes on"):
        load_dataset(frames(tmp_path, **{"next.done": [F, T, T]}), TWO)


def unmarked(name, path):
    if name == "parquet":
        return frames(path), TWO
    if name == "imitation":
        return IMITATION, ACTION_SPACE
    if name == "robomimic":
        return write_robomimic(path / "x.hdf5"), None
    if name == "d4rl":
        return write(path / "x.hdf5", {key: value for key, value in FLAT.items() if key != "timeouts"}), None
    layout = {"handle_timeout_termination": False, "optimize_memory_usage": name == "optimized replay buffer"}
    buffer = ReplayBuffer(20, spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, 10, (1,)), "cpu", **layout)
    fill(buffer, 12)
    return buffer, None


UNMARKED = ["parquet", "imitation", "robomimic", "d4rl", "replay buffer", "optimized replay buffer"]


@pytest.mark.parametrize("name", UNMARKED)
def test_ends_of_unknown_meaning_are_not_taken_for_terminal_states_silently(tmp_path, name):
    source, action_space = unmarked(name, tmp_path)
    with pytest.warns(UserWarning, match="does not say which episodes ended at a time limit"):
        assert load_dataset(source, action_space).terminations.any()


def test_marked_ends_are_loaded_without_a_word(tmp_path):
    buffer = ReplayBuffer(20, spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, 10, (1,)), "cpu")
    fill(buffer, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(frames(tmp_path, **{"next.truncated": [F, F, T]}), TWO)
        load_dataset(write(tmp_path / "x.hdf5", FLAT))
        load_dataset(buffer)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("terminals", "'terminations'"),
        ("timeouts", "'truncations'"),
        ("terminated", "'terminations'"),
        ("truncated", "'truncations'"),
        ("dones", "'terminations' where .* and 'truncations' where"),
    ],
)
def test_other_names_of_the_flags_are_answered_with_ours(arrays, name, answer):
    with pytest.raises(DatasetError, match=rf"unknown field '{name}'.*'{name}' is called {answer}"):
        load_dataset({name: arrays["terminations"]} | arrays)


def test_done_in_place_of_terminated_is_noticed(arrays):
    truncations = np.arange(40) % 10 == 9
    with pytest.warns(UserWarning, match="every truncated row is terminated too"):
        load_dataset(arrays | {"terminations": truncations, "truncations": truncations})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(arrays | {"terminations": ~truncations & truncations, "truncations": truncations})
        both = np.arange(40) == 9  # one step may be both
        load_dataset(arrays | {"terminations": both, "truncations": truncations})
