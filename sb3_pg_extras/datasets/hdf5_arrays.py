"""
Reading arrays from HDF5 files of unknown origin.

Only numbers that lie in the file itself are read: links, external storage, virtual datasets and objects are refused, and
so are sizes that the file cannot hold, before any memory is taken for them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg_extras.datasets.dataset import DatasetError, reading

# Deflate packs at most 1032 bytes into one; anything above cannot be real data.
MAX_INFLATION = 1100
# Names listed in a message.
MAX_NAMES = 20


@contextmanager
def open_hdf5(path: str | Path, what: str) -> Iterator[Any]:
    """
    Open an HDF5 file for reading; whatever fails meanwhile becomes one :class:`DatasetError` that names the file.

    :param path: The file.
    :param what: What it is expected to be, for the message.
    """
    with reading(path, what):
        try:
            import h5py
        except ImportError as error:
            raise DatasetError(f'reading {what} needs h5py: pip install "sb3-pg-extras[hdf5]"') from error
        with h5py.File(path, "r") as file:
            yield file


def field_name(group: Any, name: str) -> str:
    """
    :param group: An HDF5 group.
    :param name: The name of a member.
    :return: The member's path in the file, as messages give it.
    """
    return f"{group.name}/{name}".lstrip("/")


def has_member(group: Any, name: str) -> bool:
    """
    :param group: An HDF5 group.
    :param name: A name.
    :return: True if the group has a member of that name, a link that leads nowhere included.
    """
    # `in` would follow a link, into another file too.
    return group.get(name, getlink=True) is not None


def get_group(group: Any, name: str) -> Any:
    """
    :param group: An HDF5 group.
    :param name: A member that must be a group of this file.
    :return: The member.
    :raises DatasetError: when it is missing, a link, or no group.
    """
    import h5py

    member = _get(group, name)
    if not isinstance(member, h5py.Group):
        raise DatasetError(f"field {field_name(group, name)!r} must be a group, not {type(member).__name__}")
    return member


def get_array(group: Any, name: str) -> Any:
    """
    Find an array without reading it.

    :param group: An HDF5 group.
    :param name: A member that must be an array of numbers, stored in this file, of a size that the file can hold.
    :return: The member, an ``h5py.Dataset``.
    :raises DatasetError: when it is anything else.
    """
    import h5py

    member = _get(group, name)
    path = field_name(group, name)
    if not isinstance(member, h5py.Dataset):
        raise DatasetError(f"field {path!r} must be an array, not {type(member).__name__}")
    if member.is_virtual or member.external:
        raise DatasetError(f"field {path!r} is refused: its values lie in another file")
    if member.dtype.kind not in "biuf" or member.shape is None:
        raise DatasetError(f"field {path!r} must hold numbers, not {member.dtype} (shape {member.shape})")
    _check_size(member, path)
    return member


def common_lengths(columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
    """
    :param columns: What :func:`get_array` returned: for each field, one array per episode.
    :return: The number of rows of each episode.
    :raises DatasetError: when an episode is empty, or its arrays differ in their number of rows.
    """
    lengths = []
    for arrays in zip(*columns.values(), strict=True):
        for array in arrays:
            if array.ndim == 0 or len(array) == 0 or len(array) != len(arrays[0]):
                raise DatasetError(
                    f"field {array.name[1:]!r} of shape {array.shape} and {arrays[0].name[1:]!r} of shape {arrays[0].shape} "
                    "must have the same number of rows, at least one"
                )
        lengths.append(len(arrays[0]))
    return np.array(lengths)


def read_rows(arrays: Sequence[Any]) -> np.ndarray:
    """
    Read arrays one after the other into a single one, each value written once.

    :param arrays: What :func:`get_array` returned, one or more, of the same shape but for their first axis.
    :return: The rows of all; floats as float32, integers and bools as they are.
    :raises DatasetError: when shapes differ, a value is not finite, or the bytes cannot be decoded.
    """
    first = arrays[0]
    for array in arrays:
        if array.ndim == 0 or array.shape[1:] != first.shape[1:]:
            raise DatasetError(
                f"field {array.name[1:]!r} has shape {array.shape}, which does not fit (N, *{first.shape[1:]})"
                + (f" of {first.name[1:]!r}" if array != first else "")
            )
    # Several names of one array would let a small file fill the memory.
    if sum(array.id.get_storage_size() for array in arrays) > Path(first.file.filename).stat().st_size:
        raise DatasetError(f"field {first.name[1:]!r} and those like it claim more bytes than the file has")
    dtype = np.result_type(*{array.dtype.newbyteorder("=") for array in arrays})
    rows = np.empty(
        (sum(len(array) for array in arrays), *first.shape[1:]), np.dtype(np.float32) if dtype.kind == "f" else dtype
    )
    start = 0
    for array in arrays:
        part = rows[start : start + len(array)]
        start += len(array)
        if part.size:
            _read_into(array, part)
    return rows


def read_flags(arrays: Sequence[Any]) -> np.ndarray:
    """
    :param arrays: What :func:`get_array` returned, one or more, of shape ``(N,)`` or ``(N, 1)``.
    :return: Their values, one after the other, as bools.
    :raises DatasetError: when a value is neither 0 nor 1.
    """
    for array in arrays:
        if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
            raise DatasetError(f"field {array.name[1:]!r} has shape {array.shape}: one flag per row is needed, (N,)")
    values = read_rows(arrays).reshape(-1)
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(np.argmax(wrong))
        array, row_in_array = _locate(arrays, row)
        raise DatasetError(f"field {array.name[1:]!r} row {row_in_array} is {values[row]}: flags are False or True (0 or 1)")
    return values.astype(bool, copy=False)


def read_integer(group: Any, name: str) -> int:
    """
    :param group: An HDF5 group.
    :param name: A member that holds one integer or bool.
    :return: Its value.
    :raises DatasetError: when it is anything else.
    """
    array = get_array(group, name)
    if array.shape != () or array.dtype.kind not in "biu":
        raise DatasetError(
            f"field {field_name(group, name)!r} must be one integer, not {array.dtype} of shape {array.shape}"
        )
    return int(array[()])


def listed(names: Any) -> str:
    """
    :param names: Names found in a file.
    :return: The first of them, for a message.
    """
    names = sorted(names)
    return f"{names[:MAX_NAMES]}" + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")


def _get(group: Any, name: str) -> Any:
    import h5py

    path = field_name(group, name)
    try:
        link = group.get(name, getlink=True)
        if link is None:
            raise DatasetError(f"field {path!r} is missing: found {listed(group)}")
        # A soft link can name an external one in turn.
        if not isinstance(link, h5py.HardLink):
            raise DatasetError(f"field {path!r} is refused: it is a link ({type(link).__name__}), not data of this file")
        return group[name]
    except DatasetError:
        raise
    except Exception as error:
        raise DatasetError(
            f"field {path!r} cannot be opened ({type(error).__name__}: {error}). Is the file complete?"
        ) from error


def _check_size(array: Any, path: str) -> None:
    # Python's integers: a made-up shape overflows numpy's.
    n_bytes = math.prod(map(int, array.shape)) * array.dtype.itemsize
    stored, file_size = array.id.get_storage_size(), Path(array.file.filename).stat().st_size
    compressed = array.chunks is not None and array.id.get_create_plist().get_nfilters() > 0
    too_large = stored > file_size or n_bytes > stored * (MAX_INFLATION if compressed else 1)
    if array.chunks and not too_large:
        # Chunks that were never written read as zeros: they would not be data.
        n_chunks = math.prod(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
        too_large = array.id.get_num_chunks() < n_chunks
    if too_large:
        raise DatasetError(
            f"field {path!r} of shape {array.shape} needs {n_bytes} bytes, but {stored} of the file's {file_size} "
            "hold it: it is damaged, or was not written to the end"
        )


def _read_into(array: Any, rows: np.ndarray) -> None:
    try:
        array.read_direct(rows)
    except Exception as error:
        raise DatasetError(
            f"field {array.name[1:]!r} cannot be read ({type(error).__name__}: {error}). Is the file complete?"
        ) from error
    # Said here, where the row of the file is known.
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        row = int(np.argmin(np.isfinite(rows).reshape(len(rows), -1).all(axis=1)))
        raise DatasetError(f"field {array.name[1:]!r} row {row} is not finite: {rows[row]}. Remove or repair that row")


def _locate(arrays: Sequence[Any], row: int) -> tuple[Any, int]:
    for array in arrays:
        if row < len(array):
            return array, row
        row -= len(array)
    raise IndexError(row)
