"""Robot logs as tables: CSV files and DataFrames with named columns."""

import warnings

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
        ({"columns": {name: COLUMNS[name] for name in ("observations", "actions", "rewards")}}, "a single long run"),
        ({"table": log().assign(x=[0, 1, np.nan, 3, 4, 5, 6])}, "observations: column 'x' is empty in row 2"),
        ({"table": log().assign(crashed=[0, 1, 0, 0, 0, 0, 0])}, "row 1 terminates or is truncated, but episode a goes on"),
        ({"table": log().assign(crashed=[0, 0, 2, 0, 0, 0, 0])}, "terminations"),
        ({"table": log().assign(u=9.0)}, "actions"),
        ({"table": log()[:0]}, "no rows"),
        ({"table": log().assign(run=["a", "a", np.nan, "b", "b", "b", "b"])}, "episode: column 'run' is empty in row 2"),
        ({"table": log().assign(run=[0, 0, 0, 1, None, 1, 1])}, "episode: column 'run' is empty in row 4"),
        ({"columns": ["x"]}, r"columns=\['x'\] is not a dict: pass columns=.*for example"),
        ({"columns": COLUMNS | {1: "r", "reward": "r"}}, "columns=1 is unknown: pass columns="),
        ({"columns": COLUMNS | {"episode": ["run"]}}, r"columns: episode=\['run'\] must be the name of one column, one of"),
        ({"columns": COLUMNS | {"observations": [["x", "v"]]}}, r"observations=\['x', 'v'\] must be the name of one column"),
        ({"columns": COLUMNS | {"observations": {}}}, r"columns: observations=\{\} must be a column's name or a list"),
        ({"columns": COLUMNS | {"actions": {"u": "x"}}}, r"columns: actions=\{'u': 'x'\} must be a column's name or a list"),
        ({"columns": COLUMNS | {"actions": []}}, r"columns: actions=\[\] must be a column's name or a list of names"),
        ({"columns": COLUMNS | {"rewards": 3}}, "columns: rewards=3 must be a column's name or a list of names"),
        ({"table": log().rename(columns={"v": "x"})}, "columns: observations='x' is the name of 2 columns.*rename them"),
        ({"table": log().rename(columns={"note": "run"})}, "columns: episode='run' is the name of 2 columns.*rename them"),
    ],
)
def test_wrong_tables_end_in_one_error(changes, words):
    with pytest.raises(DatasetError, match=words):
        load_dataset(changes.get("table", log()), ACTIONS, columns=changes.get("columns", COLUMNS))


def long_log() -> pd.DataFrame:
    """Four runs of three steps that are cut, each of which loses its last row."""
    return pd.DataFrame({"run": np.repeat(["a", "b", "c", "d"], 3), "x": 0.0, "v": 0.0, "u": 0.0, "r": 0.0, "crashed": 0})


@pytest.mark.parametrize("as_file", [False, True])
@pytest.mark.parametrize(
    ("column", "row", "value", "words"),
    [
        ("u", 10, 9.0, r"actions row 10 is \[9\.\], outside"),
        ("u", 9, np.inf, "actions row 9 is not finite"),
        ("r", 9, -np.inf, "rewards row 9 is not finite"),
        # Too large for float32.
        ("v", 10, 1e300, "observations row 10 is not finite"),
        # Only a next observation: its own row is dropped.
        ("x", 11, np.inf, "observations row 11 is not finite"),
    ],
)
def test_errors_name_the_row_of_the_table(tmp_path, as_file, column, row, value, words):
    source = long_log()
    source.loc[row, column] = value
    if as_file:
        source.to_csv(tmp_path / "log.csv", index=False)
        source = tmp_path / "log.csv"
    with pytest.raises(DatasetError, match=words):
        load_dataset(source, ACTIONS, columns=COLUMNS)


def test_dropped_actions_and_clipped_ones_are_no_error():
    table = long_log()
    table.loc[11, "u"] = 9.0
    assert len(load_dataset(table, ACTIONS, columns=COLUMNS)) == 8
    table.loc[10, "u"] = 9.0
    with pytest.warns(UserWarning, match="1 of 8 actions were outside"):
        assert load_dataset(table, ACTIONS, columns=COLUMNS, clip_actions=True).actions[-1] == 2
    table.loc[9, "r"] = np.inf
    with pytest.raises(DatasetError, match="rewards row 9"), pytest.warns(UserWarning, match="they are clipped"):
        load_dataset(table, ACTIONS, columns=COLUMNS, clip_actions=True)


def test_a_table_without_transitions_is_an_error():
    with pytest.raises(DatasetError, match="no transitions"):
        load_dataset(long_log()[::3], ACTIONS, columns=COLUMNS)


def test_columns_are_for_tables_and_files_name_themselves(tmp_path):
    with pytest.raises(DatasetError, match="only CSV files and DataFrames"):
        load_dataset("bundled:pendulum-mixed-v0", columns=COLUMNS)
    (tmp_path / "log.csv").write_text('a,"b\n1')
    with pytest.raises(DatasetError, match=r"log\.csv"):
        load_dataset(tmp_path / "log.csv", ACTIONS, columns=COLUMNS)
    with pytest.raises(DatasetError, match=r"missing\.csv"):
        load_dataset(tmp_path / "missing.csv", ACTIONS, columns=COLUMNS)


def test_delimiters_at_the_ends_of_rows_shift_no_column(tmp_path):
    header, *rows = log().to_csv(index=False).splitlines()
    (tmp_path / "log.csv").write_text("\n".join([header, *(f"{row}," for row in rows)]))
    log().to_csv(tmp_path / "plain.csv", index=False)
    shifted, plain = (load_dataset(tmp_path / name, ACTIONS, columns=COLUMNS) for name in ("log.csv", "plain.csv"))
    for field in ("observations", "actions", "rewards", "terminations", "episode_starts"):
        np.testing.assert_array_equal(getattr(shifted, field), getattr(plain, field))


def test_rows_with_more_fields_than_the_header_are_refused(tmp_path):
    header, *rows = log().to_csv(index=False).splitlines()
    (tmp_path / "log.csv").write_text("\n".join([header, *(f"{i},{row}" for i, row in enumerate(rows))]))
    with pytest.raises(DatasetError, match=r"log\.csv: cannot be read as a CSV file .*header"):
        load_dataset(tmp_path / "log.csv", ACTIONS, columns=COLUMNS)


@pytest.mark.parametrize("dtype", [bool, "boolean", "Int64"])
def test_flags_and_counts_stand_beside_numbers(dtype):
    table = log()
    table["contact"] = np.arange(len(table)) % 2
    data = [
        load_dataset(table.astype({"contact": kind}), ACTIONS, columns=COLUMNS | {"observations": ["x", "contact"]})
        for kind in (float, dtype)
    ]
    np.testing.assert_array_equal(data[0].observations, data[1].observations)


def test_next_observations_of_their_own_drop_no_row():
    table = log()
    table["x'"], table["v'"] = table["x"] + 1, table["v"] + 0.1
    columns = COLUMNS | {"next_observations": ["x'", "v'"]}
    dataset = load_dataset(table, ACTIONS, columns=columns)
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert dataset.truncations.tolist() == [False] * 6 + [True]
    with pytest.raises(DatasetError, match="next_observations has shape"):
        load_dataset(table, ACTIONS, columns=columns | {"next_observations": ["x'"]})
    with pytest.raises(DatasetError, match="actions row 4"):
        load_dataset(table.assign(u=[0, 0, 0, 0, 9, 0, 0]), ACTIONS, columns=columns)


def test_rewards_in_dropped_rows_are_warned_of():
    with pytest.warns(UserWarning, match="last rows of 1 episodes .* rewards of 1 on average, where all rows have 0.143"):
        load_dataset(log().assign(r=[0, 0, 0, 0, 0, 0, 1.0]), ACTIONS, columns=COLUMNS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(log().assign(r=1.0), ACTIONS, columns=COLUMNS)
        # A terminal row is not dropped.
        load_dataset(log().assign(r=[0, 0, 1.0, 0, 0, 0, 0]), ACTIONS, columns=COLUMNS)


def test_values_that_float32_merges_are_warned_of():
    table = log().assign(x=1.7e9 + np.arange(7.0) * 20)
    with pytest.warns(UserWarning, match="observations: column 0 goes from 1700000000 to 1700000100, .* steps of 1.3e.02"):
        load_dataset(table, ACTIONS, columns=COLUMNS)
    # Rounding errors are not values.
    rounded = 0.3 + np.arange(7) * 1e-16
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(log().assign(x=rounded), ACTIONS, columns=COLUMNS)


def test_integers_taken_for_choices_are_warned_of():
    with pytest.warns(UserWarning, match=r"taken for choices, Discrete\(7\).*Box if they are quantities"):
        load_dataset(log().assign(u=range(7)), columns=COLUMNS)


def test_suffixes_may_be_capitals(tmp_path):
    log().to_csv(tmp_path / "LOG.CSV", index=False)
    assert len(load_dataset(tmp_path / "LOG.CSV", ACTIONS, columns=COLUMNS)) == 6
    with pytest.raises(DatasetError, match="pass columns="):
        load_dataset(tmp_path / "LOG.CSV", ACTIONS)


def test_an_action_below_the_assumed_bounds_is_refused_as_one_above():
    for value in (1.5, -1.5):
        with pytest.raises(DatasetError, match=r"actions row 2 is .*outside the \[-1, 1\] assumed"):
            load_dataset(log().assign(u=[0, 0, value, 0, 0, 0, 0]), columns=COLUMNS)


def test_negative_integers_are_no_choices():
    with pytest.raises(DatasetError, match=r"actions are integers .*minimum -1: pass action_space"):
        load_dataset(log().assign(u=[0, 1, -1, 0, 1, 2, 0]), columns=COLUMNS)
