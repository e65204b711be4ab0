"""robomimic's HDF5 files: one group per demonstration."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.readers.hdf5_arrays import get_member, has_member, listed, open_hdf5, read_columns
from sb3_pg_extras.datasets.reading import naming, warn_of_time_limits
from sb3_pg_extras.datasets.rows import from_rows

DEMO_NAME = re.compile("demo_([0-9]{1,18})")


def load_robomimic(path: str | Path, action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Read a robomimic file: the groups ``data/demo_0``, ``data/demo_1``, ... in the order of their numbers, each with
    ``obs/<key>``, ``actions``, ``rewards``, ``dones``, and where the file has them ``next_obs/<key>``. One key gives a
    Box observation, several a Dict. States, masks and models are not read.

    ``dones`` are terminations; a done in the middle of a demonstration splits it into two episodes. A demonstration whose
    last step is not done counts as truncated. Without ``next_obs`` that step is dropped, as
    :func:`~sb3_pg_extras.datasets.rows.from_rows` describes.

    :param path: The file.
    :param action_space: The environment's action space; by default a Box of [-1, 1], which robomimic requires.
    :return: The dataset; its ``env_id`` is the ``env_name`` of ``env_args``.
    :raises DatasetError: when the file is missing, truncated, or not a valid dataset.
    """
    with open_hdf5(path, "a robomimic dataset") as file:
        data = get_member(file, "data", "Group")
        demos = _demo_names(data)
        # A key that only some demonstrations have is then reported as missing from the others.
        keys = sorted(set().union(*(get_member(data, f"{demo}/obs", "Group") for demo in demos)))
        if not keys:
            raise DatasetError("field 'obs' is empty: at least one observation is needed")
        groups = {"obs": "observations"}
        if has_member(get_member(data, demos[0], "Group"), "next_obs"):
            groups["next_obs"] = "next_observations"
        names = ["actions", "rewards", "dones", *(f"{group}/{key}" for group in groups for key in keys)]
        paths = {name: [f"{demo}/{name}" for demo in demos] for name in names}
        columns, lengths = read_columns(data, paths, flags=["dones"])
        fields: dict[str, Any] = {name: columns[name] for name in ("actions", "rewards")}
        for group, name in groups.items():
            values = {key: columns[f"{group}/{key}"] for key in keys}
            fields[name] = values if len(keys) > 1 else values[keys[0]]
        terminations, last = columns["dones"], np.cumsum(lengths) - 1
        truncations = np.zeros_like(terminations)
        truncations[last] = ~terminations[last]
        fields |= {"terminations": terminations, "truncations": truncations}
        if terminations[last].any():
            # By default robomimic sets it at the last step of every demonstration.
            warn_of_time_limits("dones of robomimic")
        ends = np.flatnonzero(terminations | truncations) + 1
        return from_rows(fields, ends, action_space, _env_name(data))


def _demo_names(data: Any) -> list[str]:
    numbers = {name: DEMO_NAME.fullmatch(name) for name in data}
    if not numbers or not all(numbers.values()):
        raise DatasetError(f"field 'data' must hold demo_0, demo_1, ... and nothing else: found {listed(numbers)}")
    return sorted(numbers, key=lambda name: int(name.removeprefix("demo_")))


def _env_name(data: Any) -> str | None:
    with naming("attribute 'env_args' of 'data'"):
        return json.loads(data.attrs.get("env_args", '{"env_name": null}'))["env_name"]
