"""Tables with one step per row, such as a robot's log: CSV files and pandas DataFrames -> OfflineDataset."""

import warnings
from collections.abc import Collection, Hashable, Mapping, Sequence
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
ColumnNames = Mapping[str, str | Sequence[str] | Mapping[str, str | Sequence[str]]]
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations", "episode", "next_observations")
# Those that say where an episode ends.
ENDS = FIELDS[3:6]


def load_csv(
    path: str | Path, action_space: spaces.Space | None = None, columns: ColumnNames | None = None
) -> OfflineDataset:
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
        with warnings.catch_warnings():
            # Rows with more fields than the header, of which pandas would drop the last.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Else delimiters at the ends of rows shift all columns by one, and types depend on where chunks end.
            table = pd.read_csv(path, index_col=False, low_memory=False)
        return from_table(table, action_space, columns)


def from_table(table: "DataFrame", action_space: spaces.Space | None, columns: ColumnNames | None) -> OfflineDataset:
    """
    Make a dataset of rows ``(s_t, a_t, r_t)`` in time order. Without columns of next observations, the next one is that of
    the episode's next row: :func:`~sb3_pg_extras.datasets.rows.from_rows` says what becomes of the last one, which has none.

    :param table: One step per row.
    :param action_space: The action space; None assumes ``[-1, 1]`` for floats and ``0 ... max`` for integers.
    :param columns: The columns of ``"observations"``, ``"actions"`` and ``"rewards"``; of ``"episode"``, whose value changes
        where an episode begins; of ``"terminations"`` and ``"truncations"``, flags that are set in an episode's last row.
        At least one of these three is needed; an end that is not a termination is a truncation. ``"next_observations"``
        are columns in the order of those of ``"observations"``.
    :return: The dataset.
    :raises DatasetError: when ``columns`` is malformed, a column is missing, has an empty cell or holds anything but finite
        numbers (the episodes may have any names), or an action is out of bounds. Rows are those of the table, from 0.
    """
    columns = _checked(table, columns)
    if not set(columns) & set(ENDS):
        raise DatasetError(
            f"columns names none of {ENDS}: nothing says where an episode ends. For a single long run, name as 'episode' a "
            "column that has the same value in all rows"
        )
    if len(table) == 0:
        raise DatasetError("the table has no rows")
    flags = {name: as_flags(name, _array(table, name, columns[name])) for name in FIELDS[3:5] if name in columns}
    terminations = flags.get("terminations", np.zeros(len(table), bool))
    truncations = flags.get("truncations", np.zeros(len(table), bool)) & ~terminations
    is_last = terminations | truncations
    if "episode" in columns:
        name = _known(table, "episode", columns["episode"])
        _check_filled(table, "episode", name)
        episode = table[name].to_numpy()
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
    ends = np.flatnonzero(is_last) + 1
    flags = {"terminations": terminations, "truncations": is_last & ~terminations}
    fields = _fields(table, columns, flags)
    try:
        return from_rows(fields, ends, action_space)
    except DatasetError as error:
        if "next_observations" in fields:
            raise
        wrong = error
    # Errors count the rows that from_rows keeps. Given next observations it keeps all: then they name the table's row.
    fields = _fields(table, columns, flags)
    from_rows(fields | {"next_observations": fields["observations"]}, ends, action_space)
    raise wrong


def _checked(table: "DataFrame", columns: Any) -> dict[str, Any]:
    """``columns`` with all the fields that are needed, and no other."""
    columns = {} if columns is None else columns
    if not isinstance(columns, Mapping):
        what = f"columns={columns!r} is not a dict"
    elif unknown := sorted(set(columns) - set(FIELDS), key=str):
        what = f"columns={unknown[0]!r} is unknown"
    elif lacking := [name for name in FIELDS[:3] if name not in columns]:
        what = f"columns lacks {lacking[0]!r}"
        what += ", a column that you compute if the log has none" * (lacking[0] == "rewards")
    else:
        return dict(columns)
    raise DatasetError(
        f"{what}: pass columns= to load_dataset, with {FIELDS[:3]}, one or more of {ENDS}, for example "
        f'{{"observations": ["x", "y"], "actions": ["u"], "rewards": "r", "episode": "run"}}; '
        f"the table has {list(table)}"
    )


def _fields(table: "DataFrame", columns: dict[str, Any], flags: dict[str, np.ndarray]) -> dict[str, Any]:
    """What :func:`from_rows` takes, in arrays of its own."""
    return {
        **{name: _observations(table, name, columns[name]) for name in (FIELDS[0], FIELDS[6]) if name in columns},
        "actions": _array(table, "actions", columns["actions"]),
        "rewards": _array(table, "rewards", columns["rewards"]),
        **{name: flag.copy() for name, flag in flags.items()},
    }


def _observations(table: "DataFrame", field: str, names: Any) -> Any:
    if isinstance(names, Mapping) and names:
        return {key: _array(table, f"{field}[{key!r}]", listed) for key, listed in names.items()}
    return _array(table, field, [names] if isinstance(names, str) else names)


def _known(table: "DataFrame", field: str, name: Any) -> Any:
    if not isinstance(name, Hashable):
        raise DatasetError(f"columns: {field}={name!r} must be the name of one column, one of {list(table)}")
    if name not in table.columns:
        raise DatasetError(f"{field}: column {name!r} is missing, the table has {list(table)}")
    if table[name].ndim != 1:
        raise DatasetError(
            f"columns: {field}={name!r} is the name of {table[name].shape[1]} columns of the table: rename them, each needs "
            "a name of its own"
        )
    return name


def _check_filled(table: "DataFrame", field: str, name: Any) -> None:
    empty = np.flatnonzero(table[name].isna())
    if len(empty):
        raise DatasetError(f"{field}: column {name!r} is empty in row {empty[0]}")


def _array(table: "DataFrame", field: str, names: Any) -> np.ndarray:
    """One column as (N,), several as (N, D)."""
    listed: Any = [names] if isinstance(names, str) else names
    if isinstance(listed, Mapping) or not isinstance(listed, Collection) or len(listed) == 0:
        raise DatasetError(f"columns: {field}={names!r} must be a column's name or a list of names, out of {list(table)}")
    chosen = [_known(table, field, name) for name in listed]
    for name in chosen:
        if getattr(table[name].dtype, "kind", "O") not in "biuf":
            raise DatasetError(f"{field}: column {name!r} must hold numbers, not {table[name].dtype}")
        _check_filled(table, field, name)
    with naming(field):
        # Copies: rows are moved in place, and pandas' arrays are read-only.
        arrays = [table[name].to_numpy(dtype=getattr(table[name].dtype, "numpy_dtype", None), copy=True) for name in chosen]
        return arrays[0] if isinstance(names, str) else np.stack(arrays, axis=1)
