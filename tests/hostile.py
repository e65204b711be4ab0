"""Damaged files, as hypothesis strategies, and what a loader may do with them."""

import copy
import json
import pickletools
import subprocess
from collections.abc import Callable
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
    """Some bytes changed, perhaps two stretches of them exchanged, and perhaps the end lost."""
    broken = bytearray(content)
    places = st.integers(0, len(content) - 1)
    for place in draw(st.lists(places, max_size=16)):
        broken[place] = draw(st.sampled_from([0, 255, broken[place] ^ 1, broken[place] ^ 128]) | st.integers(0, 255))
    if draw(st.integers(0, 3)) == 0:
        start, middle, end = sorted(draw(st.tuples(places, places, places)))
        broken[start:end] = broken[middle:end] + broken[start:middle]
    return bytes(broken[: draw(places)]) if draw(st.booleans()) else bytes(broken)


@st.composite
def broken_files(draw: st.DrawFn, files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a folder by their names, one of them broken."""
    name = draw(st.sampled_from(sorted(files)))
    return files | {name: draw(broken_bytes(files[name]))}


JUNK = st.sampled_from(
    [None, True, -1, 0, 1, 2.5, 10**30, 1e308, float("nan"), "", "x", "Box", [], [[1], [1, 2]], [10**9] * 2, {}, {"a": 1}]
)


@st.composite
def broken_json(draw: st.DrawFn, text: str) -> str:
    """Some values of a JSON string, at any depth, replaced, dropped, or renamed; JSON in its strings is broken as well."""
    value = {"": json.loads(text)}
    for _ in range(draw(st.integers(1, 3))):
        parent: Any = value
        key: Any = ""
        while isinstance(parent[key], (dict, list)) and parent[key] and (parent is value or draw(st.booleans())):
            parent = parent[key]
            key = draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
        how = draw(st.sampled_from(["junk", "drop", "rename", "inside"]))
        if how == "inside" and isinstance(parent[key], str) and parent[key].startswith("{"):
            parent[key] = draw(broken_json(parent[key]))
        elif how == "drop" and parent is not value:
            del parent[key]
        elif how == "rename" and isinstance(parent, dict) and parent is not value:
            parent[key + "s"] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(draw(JUNK))
    return json.dumps(value[""])


class Evil:
    """An object whose pickle runs a command of the shell when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return subprocess.getoutput, (self.command,)


# Instructions of a pickle that name something no buffer needs, and call it: in each way that a pickle can name and call.
def _calls(module: str, name: str, argument: str) -> list[bytes]:
    text, unicode = f"S'{argument}'\n".encode(), [b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name, argument)]
    return [
        b"c" + f"{module}\n{name}\n".encode() + b"(" + text + b"tR",  # GLOBAL, REDUCE
        unicode[0] + unicode[1] + b"\x93" + unicode[2] + b"\x85R",  # STACK_GLOBAL, REDUCE
        b"(" + text + f"i{module}\n{name}\n".encode(),  # INST
        b"(c" + f"{module}\n{name}\n".encode() + text + b"o",  # OBJ
        unicode[0] + unicode[1] + b"\x93" + unicode[2] + b"\x85\x81",  # STACK_GLOBAL, NEWOBJ
        b"c" + f"{module}\n{name}\n".encode() + text + b"b",  # GLOBAL, BUILD
    ]


@st.composite
def spliced_pickle(draw: st.DrawFn, content: bytes, argument: str) -> bytes:
    """A pickle with a call of foreign code put between two of its instructions."""
    targets = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"), ("builtins", "getattr"),
               ("builtins", "__import__"), ("subprocess", "getoutput"), ("numpy", "load"), ("numpy", "testing.runstring"),
               ("torch", "load"), ("collections", "os.system"), ("gymnasium.spaces.box", "np.load"),
               ("numpy.dtypes", "__loader__"), ("stable_baselines3.common.buffers", "warnings.sys")]  # fmt: skip
    module, name = draw(st.sampled_from(targets))
    place = draw(st.sampled_from([place for _, _, place in pickletools.genops(content) if place]))
    call = draw(st.sampled_from(_calls(module, name, argument)))
    # What it leaves is taken off again, or not.
    return content[:place] + call + draw(st.sampled_from([b"0", b""])) + content[place:]


def assert_loads_or_is_refused(load: Callable[[], Any], name: str, fields: tuple[str, ...] = ()) -> None:
    """
    A broken source gives a dataset (which was checked) or one DatasetError whose message has its name and, if any are
    given, one of the fields. Any other exception goes through.
    """
    try:
        dataset = load()
    except DatasetError as error:
        message = str(error)
        assert name in message
        assert not fields or any(field in message for field in fields), message
    else:
        assert isinstance(dataset, OfflineDataset)
        assert len(dataset) >= 1
