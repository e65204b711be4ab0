"""Tables with one step per row, such as a robot's log: CSV files and pandas DataFrames -> OfflineDataset."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset, as_flags
from sb3_pg_extras.datasets.reading import naming, reading
from sb3_pg_extras.datasets.rows import from_rows

if TYPE_CHECKING:
    from pandas import DataFrame

# Which columns hold what: a name, several names, or for Dict observations a dict of names.
Columns = Mapping[str, str | Sequence[str] | Mapping[str, str | Sequence[str]]]
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations", "episode")


def load_csv(path: str | Path, action_space: spaces.Space | None = None, columns: Columns | None = None) -> OfflineDataset:
    """
    Read a CSV file with a header; see :func:`from_table`.

    :param path: The file.
    :param action_space: The action space.
    :param columns: Which columns hold what.
    :return: The dataset.
    :raises DatasetError: when the file cannot be read, or as :func:`from_table` says.
    """
    import pandas as pd

    with reading(path, "a CSV file"):
        return from_table(pd.read_csv(path), action_space, columns)


def from_table(table: "DataFrame", action_space: spaces.Space | None, columns: Columns | None) -> OfflineDataset:
    """
    Make a dataset of rows ``(s_t, a_t, r_t)`` in time order. The next observation is that of the episode's next row:
    :func:`~sb3_pg_extras.datasets.rows.from_rows` says what becomes of the last one, which has none.

    :param table: One step per row.
    :param action_space: The action space; None assumes ``[-1, 1]`` for floats and ``0 ... max`` for integers.
    :param columns: The columns of ``"observations"``, ``"actions"`` and ``"rewards"``; of ``"episode"``, whose value changes
        where an episode begins; of ``"terminations"`` and ``"truncations"``, flags that are set in an episode's last row.
        At least one of these three is needed; an end that is not a termination is a truncation.
    :return: The dataset.
    :raises DatasetError: when a column is missing, holds anything but finite numbers, or is not named.
    """
    columns = dict(columns or {})
    unknown = sorted(set(columns) - set(FIELDS))
    lacking = [name for name in FIELDS[:3] if name not in columns]
    if unknown or lacking:
        what = f"columns={unknown[0]!r} is unknown" if unknown else f"columns lacks {lacking[0]!r}"
        raise DatasetError(
            f"{what}: pass columns= to load_dataset, with {FIELDS[:3]} and one or more of {FIELDS[3:]}, for example "
            f'{{"observations": ["x", "y"], "actions": ["u"], "rewards": "r", "episode": "run"}}; '
            f"the table has {list(table)}"
        )
    if not set(columns) & set(FIELDS[3:]):
        raise DatasetError(f"columns names none of {FIELDS[3:]}: nothing says where an episode ends")
    if len(table) == 0:
        raise DatasetError("the table has no rows")
    flags = {name: as_flags(name, _array(table, name, columns[name])) for name in FIELDS[3:5] if name in columns}
    terminations = flags.get("terminations", np.zeros(len(table), bool))
    truncations = flags.get("truncations", np.zeros(len(table), bool)) & ~terminations
    is_last = terminations | truncations
    if "episode" in columns:
        episode = table[_known(table, "episode", columns["episode"])].to_numpy()
        changes = np.append(episode[1:] != episode[:-1], True)
        early = np.flatnonzero(is_last & ~changes)
        if len(early):
            raise DatasetError(
                f"row {early[0]} terminates or is truncated, but episode {episode[early[0]]} goes on after it"
            )
        is_last = changes
    is_last[-1] = True
    if "terminations" not in columns:
        warnings.warn("the table has no terminations: each episode's end counts as a time limit, not as a terminal state")
    observations = columns["observations"]
    fields = {
        "observations": (
            {key: _array(table, f"observations[{key!r}]", names) for key, names in observations.items()}
            if isinstance(observations, Mapping)
            else _array(table, "observations", [observations] if isinstance(observations, str) else observations)
        ),
        "actions": _array(table, "actions", columns["actions"]),
        "rewards": _array(table, "rewards", columns["rewards"]),
        "terminations": terminations,
        "truncations": is_last & ~terminations,
    }
    return from_rows(fields, np.flatnonzero(is_last) + 1, action_space)


def _known(table: "DataFrame", field: str, name: Any) -> str:
    if name not in table.columns:
        raise DatasetError(f"{field}: column {name!r} is missing, the table has {list(table)}")
    return name


def _array(table: "DataFrame", field: str, names: Any) -> np.ndarray:
    """One column as (N,), several as (N, D)."""
    chosen = [_known(table, field, name) for name in ([names] if isinstance(names, str) else names)]
    for name in chosen:
        if getattr(table[name].dtype, "kind", "O") not in "biuf":
            raise DatasetError(f"{field}: column {name!r} must hold numbers, not {table[name].dtype}")
        empty = np.flatnonzero(table[name].isna())
        if len(empty):
            raise DatasetError(f"{field}: column {name!r} is empty in row {empty[0]}")
    with naming(field):
        # A copy: rows are moved in place, and pandas' arrays are read-only.
        return np.array(table[chosen[0] if isinstance(names, str) else chosen], order="C")
