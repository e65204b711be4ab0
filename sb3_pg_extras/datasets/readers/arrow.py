"""Arrow columns -> arrays of numbers, for the formats that are read with pyarrow."""

from typing import Any

import numpy as np

from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets.dataset import DatasetError, check_finite

# Constant columns take almost no space in a file: sizes up to so many bytes plus so many times the file's are accepted.
UNCHECKED, MAX_EXPANSION = 1 << 28, 1000


def to_numpy(name: str, column: Any) -> np.ndarray:
    """
    :param name: What messages call the column.
    :param column: A ``pyarrow`` array of N numbers, or of N lists (of lists) of numbers.
    :return: shape ``(N, ...)``, all of it finite.
    :raises DatasetError: when a row is missing, longer or shorter than the first one, not finite, or not a number.
    """
    pa, compute = require("pyarrow", "parquet"), require("pyarrow.compute", "parquet")
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    shape = [len(array)]
    while True:
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        if pa.types.is_null(array.type) and len(array):
            raise DatasetError(f"{name} row 0 is missing (null)")
        items_per_row = int(np.prod(shape[1:]))
        if array.null_count:
            row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False))) // items_per_row
            raise DatasetError(f"{name} row {row} is missing (null)")
        if not is_list_type(array.type):
            break
        lengths = compute.list_value_length(array).to_numpy(zero_copy_only=False)
        width = int(lengths[0]) if len(lengths) else 0
        if (lengths != width).any():
            odd = int(np.argmax(lengths != width))
            raise DatasetError(
                f"{name} row {odd // items_per_row} has {lengths[odd]} numbers where the first row has {width}"
            )
        shape.append(width)
        array = compute.list_flatten(array)
        if width == 0:
            break
    if not is_number_type(array.type):
        raise DatasetError(f"{name} must hold numbers, not {array.type}")
    numbers = array.to_numpy(zero_copy_only=False).reshape(shape)
    check_finite(name, numbers)
    return numbers


def check_size(n_bytes: int, file_size: int) -> None:
    """
    :param n_bytes: Bytes that a file's columns take, or claim to take, in memory.
    :param file_size: Bytes of the file.
    :raises DatasetError: when a small file asks for gigabytes.
    """
    if n_bytes > MAX_EXPANSION * file_size + UNCHECKED:
        raise DatasetError(f"claims {n_bytes} bytes in a file of {file_size}: no real data is compressed that much")


def is_list_type(arrow_type: Any) -> bool:
    """:return: Whether it is one of Arrow's types of lists."""
    types = require("pyarrow.types", "parquet")
    return types.is_list(arrow_type) or types.is_large_list(arrow_type) or types.is_fixed_size_list(arrow_type)


def is_number_type(arrow_type: Any) -> bool:
    """:return: Whether it is a type of numbers or of flags."""
    types = require("pyarrow.types", "parquet")
    return types.is_floating(arrow_type) or types.is_integer(arrow_type) or types.is_boolean(arrow_type)
