"""Files that somebody broke, as hypothesis strategies, and what a loader may do with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from sb3_pg_extras import DatasetError, OfflineDataset

MISTYPES: dict[str, Callable[[np.ndarray], Any]] = {
    "bytes": lambda a: a.astype("S8"),
    "complex": lambda a: a.astype(np.complex64),
    "record": lambda a: np.zeros(len(a), [("x", np.float32), ("y", np.int64)]),
    "half": lambda a: a.astype(np.float16),
    "double": lambda a: a.astype(np.float64),
    "integer": lambda a: a.astype(np.int64),
    "byte": lambda a: a.astype(np.uint8),
    "bool": lambda a: a.astype(bool),
}
RESHAPES: dict[str, Callable[[np.ndarray], Any]] = {
    "scalar": lambda a: a.flat[0],
    "flat": lambda a: a.reshape(-1),
    "one axis more": lambda a: a[..., np.newaxis],
    "columns first": lambda a: a.T,
    "one row less": lambda a: a[:-1],
    "one row more": lambda a: np.concatenate([a, a[:1]]),
    "no rows": lambda a: a[:0],
    "no columns": lambda a: a.reshape(len(a), -1)[:, :0],
    "one column": lambda a: a.reshape(len(a), -1)[:, :1],
}
POISONS = (np.nan, np.inf, -np.inf, 1e300, -1.0, 2.0)


@st.composite
def broken_arrays(draw: st.DrawFn, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """One to three arrays dropped, renamed, given to another, of another type or shape, or with a wrong value."""
    arrays = dict(arrays)
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(arrays)))
        how = draw(st.sampled_from(["drop", "rename", "swap", "mistype", "reshape", "poison"]))
        array = np.asarray(arrays.pop(name))
        if how == "rename":
            arrays[name + draw(st.sampled_from(["_", "s", "0", "/x"]))] = array
        elif how == "swap" and arrays:
            other = draw(st.sampled_from(sorted(arrays)))
            arrays[name], arrays[other] = arrays[other], array
        elif how in ("mistype", "reshape") and array.ndim and array.size and array.dtype.kind in "biuf":
            changes = MISTYPES if how == "mistype" else RESHAPES
            with np.errstate(all="ignore"):
                arrays[name] = changes[draw(st.sampled_from(sorted(changes)))](array)
        elif how == "poison" and array.size and array.dtype.kind in "biuf":
            array = array.astype(np.float64)
            array.flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(POISONS))
            arrays[name] = array
    return arrays


@st.composite
def broken_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes changed, and perhaps the end lost."""
    broken = bytearray(content)
    places = st.integers(0, len(content) - 1)
    for place in draw(st.lists(places, max_size=16)):
        broken[place] = draw(st.sampled_from([0, 255, broken[place] ^ 1, broken[place] ^ 128]) | st.integers(0, 255))
    return bytes(broken[: draw(places)]) if draw(st.booleans()) else bytes(broken)


def assert_loads_or_is_refused(load: Callable[[Path], OfflineDataset], path: Path, fields: tuple[str, ...] = ()) -> None:
    """
    A broken file gives a dataset (which was checked) or one DatasetError that names the file and, if any are given, one
    of the fields.
    """
    try:
        dataset = load(path)
    except DatasetError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert not fields or any(field in message for field in fields), message
    else:
        assert isinstance(dataset, OfflineDataset)
        assert len(dataset) >= 1
