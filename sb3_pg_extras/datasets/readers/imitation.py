"""Trajectories saved by the library ``imitation`` (a folder of HuggingFace ``datasets``) -> OfflineDataset."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.episodes import Episode, from_episodes
from sb3_pg_extras.datasets.progress import advance
from sb3_pg_extras.datasets.readers.arrow import check_size, is_list_type, to_numpy
from sb3_pg_extras.datasets.reading import reading, warn_of_time_limits

STATE = "state.json"


def load_imitation(folder: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read what ``imitation.data.serialize.save`` wrote. Its ``infos`` are not decoded, which would run the code they name.

    :param folder: The folder.
    :param action_space: The environment's: the folder holds none.
    :return: The dataset. A trajectory ends terminated where it is ``terminal``, and truncated where it is not.
    :raises DatasetError: when the folder is missing, damaged or invalid, or its trajectories have no rewards.
    """
    folder = Path(folder)
    with reading(folder, "trajectories of imitation"):
        dataset = from_episodes(_episodes(folder), action_space)
    if dataset.terminations.any():
        # imitation's own rollouts mark trajectories that reached a time limit as terminal too.
        warn_of_time_limits("terminal in trajectories of imitation")
    return dataset


def is_imitation_folder(folder: Path) -> bool:
    """:return: Whether it looks like a folder of HuggingFace ``datasets``."""
    return (folder / STATE).is_file()


def _batches(folder: Path) -> Iterator[tuple[Any, int]]:
    """Arrow's batches of trajectories, and the bytes of the file that each takes."""
    pa = require("pyarrow", "parquet")
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    names = [entry["filename"] for entry in state["_data_files"]]
    for name in names:
        if Path(name).name != name:
            raise DatasetError(f"{STATE} names the file {name!r}, which is not in the folder")
        with pa.OSFile(str(folder / name)) as file, pa.ipc.open_stream(file) as stream:
            start = n_bytes = 0
            for batch in stream:
                n_bytes += batch.nbytes
                check_size(n_bytes, file.size())
                # Arrow trusts the offsets in its files unless they are validated.
                batch.validate(full=True)
                yield batch, file.tell() - start
                start = file.tell()


def _episodes(folder: Path) -> Iterator[Episode]:
    first = 0
    for batch, n_bytes in _batches(folder):
        for field in ("obs", "acts", "rews", "terminal"):
            if field not in batch.schema.names:
                hint = ": the trajectories were saved without rewards" if field == "rews" else ""
                raise DatasetError(f"field {field!r} is missing{hint}")
            if field != "terminal" and not is_list_type(batch.schema.field(field).type):
                raise DatasetError(f"{field} must hold a list for each trajectory, not {batch.schema.field(field).type}")
        terminal = to_numpy(f"episodes from {first} on: terminal", batch["terminal"]).astype(bool)
        for index in range(len(batch)):
            name = f"episode {first + index}"
            obs, acts, rews = (_list(f"{name}: {field}", batch[field][index]) for field in ("obs", "acts", "rews"))
            last = np.arange(len(rews)) == len(rews) - 1
            yield Episode(name, obs, acts, rews, terminations=last & terminal[index], truncations=last & ~terminal[index])
            advance(n_bytes / len(batch))
        first += len(batch)


def _list(name: str, scalar: Any) -> np.ndarray:
    if not scalar.is_valid:
        raise DatasetError(f"{name} is missing (null)")
    return to_numpy(name, scalar.values)
