"""Our own file format: an ``.npz`` of the fields of OfflineDataset, readable with ``numpy.load(allow_pickle=False)``."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.datasets.arrays import from_arrays
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS, DatasetError, OfflineDataset
from sb3_pg_extras.datasets.mapped import map_npz_member
from sb3_pg_extras.datasets.progress import CountedFile
from sb3_pg_extras.datasets.reading import MAX_INFLATION, reading
from sb3_pg_extras.datasets.spaces import space_from_json, space_to_json

# A Dict observation's key "image" is stored as the array "observations/image".
SEPARATOR = "/"
METADATA = ("observation_space", "action_space", "env_id", "reference_scores")
# Bytes from which on uncompressed arrays are mapped instead of read.
MAP_FROM = 1 << 30


def save_npz(dataset: OfflineDataset, path: str | Path, compress: bool = True) -> None:
    """
    Write a dataset as ``.npz``: one array per field, and a JSON string ``metadata`` with the rest.

    :param dataset: The dataset.
    :param path: The file to write; it is written whole or not at all.
    :param compress: False for a file whose arrays can be memory-mapped.
    :raises DatasetError: when a space cannot be written.
    """
    metadata = {name: getattr(dataset, name) for name in METADATA}
    metadata |= {name: space_to_json(metadata[name]) for name in METADATA if name.endswith("space")}
    arrays: dict[str, Any] = {"episode_ends": dataset.episode_ends, "metadata": np.array(json.dumps(metadata))}
    for name in ARRAY_FIELDS:
        value = getattr(dataset, name)
        entries = (
            {f"{name}{SEPARATOR}{key}": array for key, array in value.items()} if isinstance(value, dict) else {name: value}
        )
        arrays |= entries
    with atomic_write(path) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def load_npz(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read a dataset from an ``.npz`` file. Nothing in it can run code: pickled objects are refused.

    The arrays of a large file without compression (``numpy.savez``) stay in it: they are memory-mapped.

    :param path: A file that :func:`save_npz` wrote, or any ``.npz`` with the same field names.
    :param action_space: Used if the file names no action space.
    :return: The dataset.
    :raises DatasetError: when the file is missing, truncated, or not a valid dataset.
    """
    with reading(path, "an .npz dataset"):
        content: dict[str, Any] = {}
        with open(path, "rb") as file:
            loaded = np.load(CountedFile(file), allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise DatasetError("holds a single array, not the fields of a dataset")
            archive: Any = loaded.zip
            _check_sizes(archive.infolist(), Path(path).stat().st_size)
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            stored = sum(member.file_size for member in members.values() if member.compress_type == zipfile.ZIP_STORED)
            for name in loaded.files:
                large = members[name].compress_type == zipfile.ZIP_STORED and stored >= MAP_FROM
                array = map_npz_member(path, members[name]) if large and name != "metadata" else loaded[name]
                field, _, key = name.partition(SEPARATOR)
                if key:
                    content.setdefault(field, {})[key] = array
                else:
                    content[field] = array
        metadata = json.loads(str(content.pop("metadata", "{}")))
        for name in METADATA:
            if metadata.get(name) is not None:
                content[name] = space_from_json(metadata[name]) if name.endswith("space") else metadata[name]
        return from_arrays(content, action_space)


def _check_sizes(members: list[zipfile.ZipInfo], file_size: int) -> None:
    """Refuse what claims to be larger than the file can hold, before any memory is allocated for it."""
    for member in members:
        # NumPy uses no other compression, and only deflate is known not to pack a gigabyte into a few bytes.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetError(f"{member.filename} is compressed in a way that numpy does not write")
        if member.file_size > MAX_INFLATION * member.compress_size:
            raise DatasetError(f"{member.filename} claims {member.file_size} bytes but stores {member.compress_size}")
    if sum(member.compress_size for member in members) > file_size:
        raise DatasetError(f"its arrays claim more than the file's {file_size} bytes")
