"""Arrays that stay in their file: memory-mapped, read in parts and released, so that little of them is resident."""

import mmap
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sb3_pg_extras.datasets.progress import advance

# Bytes of a part when a whole array is read.
PART = 1 << 26
# Bytes of a zip member's local header before its name (PKWARE's APPNOTE.TXT, 4.3.7).
LOCAL_HEADER = struct.Struct("<26xHH")


def map_npz_member(path: str | Path, member: zipfile.ZipInfo) -> np.memmap:
    """
    Map an array of an uncompressed ``.npz`` file.

    :param path: The file.
    :param member: The array's entry in it, stored without compression.
    :return: The array, read-only; nothing of it is read yet.
    :raises ValueError: when the entry is not an array of numbers, or is larger than the file.
    """
    with open(path, "rb") as file:
        file.seek(member.header_offset)
        name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        start = member.header_offset + LOCAL_HEADER.size + name_length + extra_length
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(file)
        header_size = file.tell() - start
    n_bytes = int(np.prod([int(length) for length in shape], dtype=object)) * dtype.itemsize
    if dtype.hasobject or n_bytes + header_size != member.file_size:
        raise ValueError(f"{member.filename} claims {n_bytes} bytes of {dtype} but {member.file_size} are stored")
    return np.memmap(path, dtype, "r", start + header_size, shape, "F" if fortran_order else "C")


def stays_in_file(array: object) -> bool:
    """
    :param array: Anything.
    :return: Whether it is an array whose numbers are all in a file. A copy of one has its class but is in memory, and so are
        changes to one that is mapped copy-on-write (``mmap_mode="c"``).
    """
    return isinstance(array, np.memmap) and _mapping(array) is not None and array.mode != "c"


def parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """
    :param array: Any array.
    :return: The same in parts along its first axis: one if it is in memory; many, each released after use, if it is mapped.
    """
    if not isinstance(array, np.memmap):
        yield array
        return
    rows = max(1, PART * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]
        _release(array)
        advance(array[start : start + rows].nbytes)


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """
    :param array: Any array of N rows.
    :param rows: Row numbers, shape (B,).
    :return: Those rows, in memory. For a mapped array, all of them are requested from the disk before the first is read.
    """
    if not isinstance(array, np.memmap):
        return array[rows]
    mapped = _mapping(array)
    start = array.__array_interface__["data"][0] - np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
    size = array.strides[0]
    for offset in (start + size * rows).tolist():
        page = offset - offset % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, page, offset + size - page)
    taken = np.array(array[rows], subok=False)
    _release(array)
    return taken


def _release(array: np.memmap) -> None:
    # The pages stay in the system's cache, but not in this process.
    _mapping(array).madvise(mmap.MADV_DONTNEED)


def _mapping(array: np.memmap) -> mmap.mmap:
    return array._mmap  # type: ignore[attr-defined]  # numpy has no public name for it
