"""
Reading arrays from HDF5 files of unknown origin.

Only numbers that lie in the file itself are read: links, external storage, virtual datasets and objects are refused, and
so are sizes that the file cannot hold, before any memory is allocated for them.
"""

import math
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets.dataset import DatasetError, as_flags, check_finite
from sb3_pg_extras.datasets.progress import advance
from sb3_pg_extras.datasets.reading import MAX_INFLATION, naming, reading

# An array of unknown length grows by 1 / GROWTH of itself, so that little memory is wasted.
GROWTH = 8
# Bytes. By default libhdf5 caches up to 32 MB of metadata of thousands of small arrays, each of which is read once.
METADATA_CACHE = 1 << 20
# Bytes read at a time.
PART = 1 << 20
# Names listed in a message.
MAX_NAMES = 20


@contextmanager
def open_hdf5(path: str | Path, what: str) -> Iterator[Any]:
    """
    Open an HDF5 file for reading; whatever fails in the block becomes one :class:`DatasetError` that names the file.

    :param path: The file.
    :param what: What it is expected to be, for the message.
    """
    with reading(path, what):
        h5py = require("h5py", "hdf5")
        access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
        access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        cache = access.get_mdc_config()
        cache.set_initial_size, cache.initial_size, cache.min_size, cache.max_size = True, *[METADATA_CACHE] * 3
        access.set_mdc_config(cache)
        with h5py.File(h5py.h5f.open(os.fsencode(path), h5py.h5f.ACC_RDONLY, access)) as file:
            yield file


def has_member(group: Any, name: str) -> bool:
    """
    :param group: An HDF5 group.
    :param name: A name.
    :return: Whether the group has a member of that name, a link that leads nowhere included.
    """
    # `in` would follow a link, into another file too.
    return group.get(name, getlink=True) is not None


def get_member(group: Any, path: str, kind: str = "HLObject") -> Any:
    """
    :param group: An HDF5 group.
    :param path: The path below it of a member that must be in this file.
    :param kind: What of h5py it must be: ``"Group"``, ``"Dataset"``, or any of them.
    :return: The member. The values of an array have not been looked at: see :func:`checked_storage`.
    :raises DatasetError: when it is missing, reached through a link, or of another kind.
    """
    import h5py

    parent, _, name = path.rpartition("/")
    group = get_member(group, parent, "Group") if parent else group
    with naming(_field(group, name)):
        link = group.get(name, getlink=True)
        if link is None:
            raise DatasetError(f"is missing: found {listed(group)}")
        # A soft link can name an external one in turn.
        if not isinstance(link, h5py.HardLink):
            raise DatasetError("is refused: it is a link, not data of this file")
        member = group[name]
        if not isinstance(member, getattr(h5py, kind)):
            raise DatasetError(f"must be {'a group' if kind == 'Group' else 'an array'}, not a {type(member).__name__}")
        return member


def read_columns(
    group: Any, columns: Mapping[str, Sequence[str]], flags: Container[str] = ()
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """
    Read fields whose arrays stand in the file one by one, such as one per episode.

    :param group: An HDF5 group.
    :param columns: For each field, the paths below the group of its arrays of numbers, which differ at most in their first
        axis; as many for each field, at least one.
    :param flags: The fields whose values are 0 or 1.
    :return: The rows of each field, floats as float32, flags as bools, integers as they are; and the number of rows of each
        of its arrays.
    :raises DatasetError: when an array is missing, is not stored in this file, claims a size that the file cannot hold,
        does not fit the one before, cannot be decoded, is empty, or differs in length from another field's; or when a value
        is not finite, or not a flag.
    """
    rows, lengths = {}, {}
    for name, paths in columns.items():
        rows[name], lengths[name] = _read_rows(group, paths, name in flags)
    first, expected = next(iter(lengths.items()))
    for name, other in lengths.items():
        wrong = np.flatnonzero((other != expected) | (other == 0))
        if len(wrong):
            raise DatasetError(
                f"episode {wrong[0]} has {other[wrong[0]]} rows of {name!r} and {expected[wrong[0]]} of {first!r}: "
                "there must be as many of each, at least one"
            )
    return rows, expected


def _read_rows(group: Any, paths: Sequence[str], flags: bool) -> tuple[np.ndarray, np.ndarray]:
    """Read arrays one after the other into a single one, each value written once."""
    file_size = Path(group.file.filename).stat().st_size
    rows: np.ndarray | None = None
    lengths: list[int] = []
    n_rows = n_stored = 0
    for path in paths:
        label = _field(group, path)
        with naming(label):
            # Opened one at a time: each open dataset has buffers of its own.
            array = get_member(group, path, "Dataset")
            shape, dtype = array.shape, array.dtype
            if dtype.kind not in "biuf":
                raise DatasetError(f"must hold numbers, not {dtype}")
            dtype = np.dtype(np.float32) if dtype.kind == "f" else np.dtype(dtype.str).newbyteorder("=")
            n_bytes = checked_storage(array, file_size)
            n_stored += n_bytes
            # Several names for one array would let a small file fill the memory.
            if n_stored > file_size:
                raise DatasetError(f"with those like it, claims more than the file's {file_size} bytes")
            if rows is None:
                rows = np.empty(shape, dtype)
            if len(shape) == 0 or shape[1:] != rows.shape[1:] or dtype != rows.dtype:
                raise DatasetError(f"has {dtype} of shape {shape}, but {rows.dtype} of (N, *{rows.shape[1:]}) is needed")
            if n_rows + shape[0] > len(rows):
                # In place, where numpy's copy would need the memory twice.
                rows.resize((n_rows + max(shape[0], n_rows // GROWTH), *shape[1:]), refcheck=False)
            own = rows[n_rows : n_rows + shape[0]]
            _read_into(array, own, n_bytes, label)
            if flags and len(own):
                as_flags(label, own)
            n_rows += shape[0]
            lengths.append(shape[0])
    assert rows is not None
    rows.resize((n_rows, *rows.shape[1:]), refcheck=False)
    return rows.reshape(-1).astype(bool) if flags else rows, np.array(lengths)


def read_integer(group: Any, name: str) -> int:
    """
    :param group: An HDF5 group.
    :param name: A member that holds one integer or bool.
    :return: Its value.
    :raises DatasetError: when it is anything else.
    """
    with naming(_field(group, name)):
        array = get_member(group, name, "Dataset")
        if array.shape != () or array.dtype.kind not in "biu":
            raise DatasetError(f"must be one integer, not {array.dtype} of shape {array.shape}")
        checked_storage(array, file_size=array.dtype.itemsize)
        return int(array[()])


def listed(names: Any) -> str:
    """
    :param names: Names found in a file.
    :return: The first of them, for a message.
    """
    names = sorted(map(str, names))
    return f"{names[:MAX_NAMES]}" + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def _field(group: Any, name: str) -> str:
    path = f"{group.name}/{name}".lstrip("/")
    return f"field {path!r}"


def checked_storage(array: Any, file_size: int) -> int:
    """
    :param array: An array of an HDF5 file, a ``h5py.Dataset``.
    :param file_size: Bytes of the file.
    :return: Bytes of the file that the array takes.
    :raises DatasetError: when its values lie in another file, or when they are not all there.
    """
    import h5py

    layout = array.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise DatasetError("is refused: its values lie in another file")
    # Python's integers: a made-up shape overflows numpy's.
    n_bytes, stored = math.prod(array.shape) * array.dtype.itemsize, int(array.id.get_storage_size())
    chunked = layout.get_layout() == h5py.h5d.CHUNKED
    too_large = stored > file_size or n_bytes > stored * (MAX_INFLATION if chunked and layout.get_nfilters() else 1)
    if chunked and not too_large:
        # Chunks that were never written read as zeros: they would not be data.
        n_chunks = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, layout.get_chunk(), strict=True))
        too_large = array.id.get_num_chunks() < n_chunks
    if too_large:
        raise DatasetError(
            f"of shape {array.shape} needs {n_bytes} bytes, but {stored} are stored for it in a file of {file_size}: "
            "it is damaged, or was not written to the end"
        )
    return stored


def _read_into(array: Any, values: np.ndarray, n_stored: int, name: str) -> None:
    import h5py

    if values.size == 0:
        return
    # Whole chunks: each is decoded once.
    chunk = array.chunks[0] if array.chunks else 1
    n_rows = -(-max(1, PART * len(values) // values.nbytes) // chunk) * chunk
    space = array.id.get_space()
    for start in range(0, len(values), n_rows):
        part = values[start : start + n_rows]
        # As array.read_direct does, which takes longer than reading a small array.
        space.select_hyperslab((start, *[0] * (part.ndim - 1)), part.shape)
        array.id.read(h5py.h5s.create_simple(part.shape), space, part)
        # Checked here, where the file's row is known and the values are still in the processor's cache.
        check_finite(name, part, start)
        advance(n_stored * len(part) / len(values))
