"""robomimic's HDF5 files: one group per demonstration."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.episodes import from_episodes
from sb3_pg_extras.datasets.hdf5_arrays import (
    common_lengths,
    get_array,
    get_group,
    has_member,
    listed,
    open_hdf5,
    read_flags,
    read_rows,
)

DEMO_NAME = re.compile("demo_([0-9]{1,18})")


def load_robomimic(
    path: str | Path, action_space: spaces.Space | None = None, obs_keys: Sequence[str] | None = None
) -> OfflineDataset:
    """
    Read a robomimic file: the groups ``data/demo_0``, ``data/demo_1``, ... in the order of their numbers, each with
    ``obs/<key>``, ``actions``, ``rewards``, ``dones``, and where the file has them ``next_obs/<key>``. One key gives a
    Box observation, several a Dict. States, masks and models are not read.

    ``dones`` are terminations, in the middle of a demonstration too, where it is split in two episodes. A demonstration
    whose last step is not done counts as truncated: its recording stopped, the value of its next observation counts.
    Without ``next_obs`` such a step is dropped: :func:`~sb3_pg_extras.datasets.episodes.from_episodes` says what becomes
    of the episode.

    :param path: The file.
    :param action_space: The environment's action space; by default a Box of [-1, 1], which robomimic asks for.
    :param obs_keys: The observations to read; all by default.
    :return: The dataset; its ``env_id`` is the ``env_name`` of ``env_args``.
    :raises DatasetError: when the file is missing, truncated, or not a valid dataset.
    """
    with open_hdf5(path, "a robomimic dataset") as file:
        data = get_group(file, "data")
        demos = [get_group(data, name) for name in _demo_names(data)]
        keys = sorted(get_group(demos[0], "obs")) if obs_keys is None else list(obs_keys)
        if not keys:
            raise DatasetError("field 'obs' is empty: at least one observation is needed")
        columns = {name: [get_array(demo, name) for demo in demos] for name in ("actions", "rewards", "dones")}
        groups = ["obs"] + ["next_obs"] * has_member(demos[0], "next_obs")
        for group in groups:
            members = [get_group(demo, group) for demo in demos]
            columns |= {f"{group}/{key}": [get_array(member, key) for member in members] for key in keys}
        lengths = common_lengths(columns)
        _check_num_samples(demos, lengths)
        demo_ends = np.cumsum(lengths)
        terminations = read_flags(columns["dones"])
        truncations = np.zeros_like(terminations)
        truncations[demo_ends - 1] = ~terminations[demo_ends - 1]
        fields: dict[str, Any] = {"terminations": terminations, "truncations": truncations}
        fields |= {name: read_rows(columns[name]) for name in ("actions", "rewards")}
        for group, name in zip(groups, ("observations", "next_observations"), strict=False):
            values = {key: read_rows(columns[f"{group}/{key}"]) for key in keys}
            fields[name] = values if len(keys) > 1 else values[keys[0]]
        ends = np.union1d(np.flatnonzero(terminations) + 1, demo_ends)
        return from_episodes(fields, ends, action_space, _env_name(data))


def _demo_names(data: Any) -> list[str]:
    numbers = {name: DEMO_NAME.fullmatch(name) for name in data}
    if not numbers or not all(numbers.values()):
        raise DatasetError(f"field 'data' must hold demo_0, demo_1, ... and nothing else: found {listed(numbers)}")
    return sorted(numbers, key=lambda name: int(name.removeprefix("demo_")))


def _check_num_samples(demos: list[Any], lengths: np.ndarray) -> None:
    for demo, length in zip(demos, lengths, strict=True):
        if "num_samples" in demo.attrs and demo.attrs["num_samples"] != length:
            raise DatasetError(
                f"field {demo.name[1:]!r} has {length} steps, but its num_samples is {demo.attrs['num_samples']}"
            )


def _env_name(data: Any) -> str | None:
    if "env_args" not in data.attrs:
        return None
    try:
        name = json.loads(data.attrs["env_args"])["env_name"]
    except (ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"attribute 'env_args' of 'data' is not JSON with an env_name ({error!r})") from error
    if not isinstance(name, str):
        raise DatasetError(f"attribute 'env_args' of 'data' has the env_name {name!r}, which is not a text")
    return name
