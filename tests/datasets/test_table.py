"""Robot logs as tables: CSV files and DataFrames with named columns."""

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

from sb3_pg_extras import BEAR, DatasetError, load_dataset

ACTIONS = spaces.Box(-2.0, 2.0, (1,))
COLUMNS = {"observations": ["x", "v"], "actions": ["u"], "rewards": "r", "episode": "run", "terminations": "crashed"}


def log() -> pd.DataFrame:
    """Two runs: one crashes after three steps, one is cut after four."""
    return pd.DataFrame(
        {
            "run": ["a"] * 3 + ["b"] * 4,
            "x": np.arange(7.0),
            "v": np.arange(7.0) / 10,
            "u": np.arange(7.0) / 5,
            "r": np.arange(7),
            "crashed": [0, 0, 1, 0, 0, 0, 0],
            "note": "text",
        }
    )


@pytest.mark.parametrize("as_file", [False, True])
def test_rows_become_transitions(tmp_path, as_file):
    source = log()
    if as_file:
        source.to_csv(tmp_path / "log.csv", index=False)
        source = tmp_path / "log.csv"
    dataset = load_dataset(source, ACTIONS, columns=COLUMNS)
    # The last row of the run that was cut has no next observation: the row before it is truncated instead.
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert dataset.next_observations[:2, 0].tolist() == [1, 2]
    assert dataset.next_observations[3:, 0].tolist() == [4, 5, 6]
    assert dataset.terminations.tolist() == [False, False, True, False, False, False]
    assert dataset.truncations.tolist() == [False] * 5 + [True]
    assert dataset.actions.shape == (6, 1)
    assert dataset.rewards.tolist() == [0, 1, 2, 3, 4, 5]
    BEAR("MlpPolicy", None, dataset, batch_size=4, policy_kwargs={"net_arch": [4], "vae_net_arch": [4]}).learn(2)


def test_dict_observations_and_single_columns():
    columns = COLUMNS | {"observations": {"pose": ["x", "v"], "speed": "v"}, "actions": "u"}
    dataset = load_dataset(log(), ACTIONS, columns=columns)
    assert {key: array.shape for key, array in dataset.observations.items()} == {"pose": (6, 2), "speed": (6, 1)}
    assert dataset.actions.shape == (6, 1)


def test_ends_without_terminations_are_time_limits():
    columns = {name: COLUMNS[name] for name in ("observations", "actions", "rewards", "episode")}
    with pytest.warns(UserWarning, match="no terminations: each episode's end counts as a time limit"):
        dataset = load_dataset(log(), ACTIONS, columns=columns)
    assert not dataset.terminations.any()
    assert dataset.episode_ends.tolist() == [2, 5]
    # Flags alone say where episodes end, too; the table's end is one.
    columns = {name: value for name, value in COLUMNS.items() if name != "episode"}
    assert load_dataset(log(), ACTIONS, columns=columns).episode_ends.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": None}, r"columns lacks 'observations': pass columns=.*'crashed'"),
        ({"columns": COLUMNS | {"reward": "r"}}, "columns='reward' is unknown"),
        ({"columns": {**COLUMNS, "observations": ["x", "y"]}}, "observations: column 'y' is missing"),
        ({"columns": {**COLUMNS, "observations": ["x", "note"]}}, "observations: column 'note' must hold numbers"),
        ({"columns": {name: COLUMNS[name] for name in ("observations", "actions", "rewards")}}, "nothing says where"),
        ({"table": log().assign(x=[0, 1, np.nan, 3, 4, 5, 6])}, "observations: column 'x' is empty in row 2"),
        ({"table": log().assign(crashed=[0, 1, 0, 0, 0, 0, 0])}, "row 1 terminates or is truncated, but episode a goes on"),
        ({"table": log().assign(crashed=[0, 0, 2, 0, 0, 0, 0])}, "terminations"),
        ({"table": log().assign(u=9.0)}, "actions"),
        ({"table": log()[:0]}, "no rows"),
    ],
)
def test_wrong_tables_end_in_one_error(changes, words):
    with pytest.raises(DatasetError, match=words):
        load_dataset(changes.get("table", log()), ACTIONS, columns=changes.get("columns", COLUMNS))


def test_columns_are_for_tables_and_files_name_themselves(tmp_path):
    with pytest.raises(DatasetError, match="only CSV files and DataFrames"):
        load_dataset("bundled:pendulum-mixed-v0", columns=COLUMNS)
    (tmp_path / "log.csv").write_text('a,"b\n1')
    with pytest.raises(DatasetError, match=r"log\.csv"):
        load_dataset(tmp_path / "log.csv", ACTIONS, columns=COLUMNS)
    with pytest.raises(DatasetError, match=r"missing\.csv"):
        load_dataset(tmp_path / "missing.csv", ACTIONS, columns=COLUMNS)
