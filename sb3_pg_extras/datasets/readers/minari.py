"""Minari's datasets, by id, as objects and as folders, in all its data formats <-> OfflineDataset."""

import json
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

from sb3_pg_extras.common.dicts import arrays_of, map_arrays, map_named_arrays
from sb3_pg_extras.common.optional import require
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.episodes import Episode, from_episodes
from sb3_pg_extras.datasets.progress import track
from sb3_pg_extras.datasets.readers.arrow import check_size
from sb3_pg_extras.datasets.readers.hdf5_arrays import checked_storage, get_member
from sb3_pg_extras.datasets.reading import naming, reading

PREFIX = "minari:"
METADATA, HDF5 = "metadata.json", "main_data.hdf5"
# What reads each of Minari's data formats; Minari itself imports them late and names its own extras.
FORMAT_LIBRARIES = {"hdf5": "h5py", "arrow": "pyarrow", "parquet": "pyarrow"}
EPISODE_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
# Levels of groups in a file.
MAX_DEPTH = 64


def load_minari(source: Any) -> OfflineDataset:
    """
    Read a Minari dataset. Nothing is downloaded, and no environment named in a file is made.

    :param source: The id of a local dataset, ``"hopper/medium-v0"`` (with or without the prefix ``minari:``), a
        ``minari.MinariDataset``, of which the selected episodes are read, or the path of a folder.
    :return: The dataset. Each of Minari's episodes is one of its episodes, also if neither flag is set at the end.
    :raises DatasetError: when the dataset is missing, damaged or invalid.
    """
    minari = require("minari", "minari")
    if isinstance(source, str):
        folder = minari_folder(source)
        if not folder.exists():
            name = source.removeprefix(PREFIX)
            raise DatasetError(f"{PREFIX}{name}: no such dataset in {folder}. To get it: minari download {name}")
    else:
        folder = source if isinstance(source, Path) else Path(source.storage.data_path)
    folder = folder / "data" if (folder / "data" / METADATA).exists() else folder
    with reading(folder, "a Minari dataset"):
        metadata = _check_metadata(folder)
        if metadata["data_format"] == "hdf5":
            composite = json.loads(metadata["observation_space"]).get("type") in ("Dict", "Tuple")
            n_episodes, share = _check_hdf5(folder / HDF5, composite), 1.0
        else:
            n_episodes, share = _check_arrow(folder, metadata["data_format"]), 0.5
        if metadata["total_episodes"] > n_episodes:
            raise DatasetError(f"{METADATA}: total_episodes is {metadata['total_episodes']}, but there are {n_episodes}")
        dataset = minari.MinariDataset(folder) if isinstance(source, (str, Path)) else source
        for space in (dataset.observation_space, dataset.action_space):
            if space.shape is None and not isinstance(space, spaces.Dict):
                raise DatasetError(f"spaces of type {type(space).__name__} are not supported: {space}")
        scores = (metadata.get("ref_min_score"), metadata.get("ref_max_score"))
        return from_episodes(
            (
                Episode(f"episode {data.id}", *(getattr(data, name) for name in EPISODE_FIELDS))
                for data in track(dataset.iterate_episodes(), dataset.total_episodes, share)
            ),
            observation_space=dataset.observation_space,
            action_space=dataset.action_space,
            env_id=None if dataset.env_spec is None else dataset.env_spec.id,
            reference_scores=None if None in scores else scores,
        )


def minari_folder(dataset_id: str) -> Path:
    """
    :param dataset_id: Minari's id of a dataset, with or without ``minari:`` before it.
    :return: The folder that Minari keeps it in, below ``MINARI_DATASETS_PATH``; it may not exist.
    :raises DatasetError: when the id is malformed.
    """
    storage = require("minari.storage", "minari")
    dataset_id = dataset_id.removeprefix(PREFIX)
    try:
        require("minari.dataset.minari_dataset", "minari").parse_dataset_id(dataset_id)
    except (ValueError, TypeError) as error:
        raise DatasetError(f'{PREFIX}{dataset_id}: ids of Minari look like "pendulum/mixed-v0" ({error})') from error
    return Path(storage.get_dataset_path(dataset_id))


def is_minari_folder(folder: Path) -> bool:
    """:return: Whether it looks like one of Minari's folders, or the folder ``data`` in one."""
    folders = (folder, folder / "data")
    files = [part / METADATA for part in folders if (part / METADATA).is_file()]
    return any(b'"data_format"' in file.read_bytes() for file in files) or any((part / HDF5).is_file() for part in folders)


def _check_metadata(folder: Path) -> dict[str, Any]:
    if not (folder / METADATA).exists():
        raise DatasetError(f"has no {METADATA}: Minari before 0.5 wrote none. Download it again (minari download <id>)")
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    if not isinstance(metadata, dict):
        raise DatasetError(f"{METADATA} holds a {type(metadata).__name__}, not an object")
    # Without the spaces Minari makes the environment that the file names, which runs the code it names.
    for field in ("observation_space", "action_space", "data_format"):
        if not isinstance(metadata.get(field), str):
            raise DatasetError(f"{METADATA}: field {field!r} is missing, or not a string")
    if not isinstance(metadata.get("total_episodes"), int):
        raise DatasetError(f"{METADATA}: field 'total_episodes' is missing, or not an integer")
    if metadata["data_format"] not in FORMAT_LIBRARIES:
        raise DatasetError(f"{METADATA}: data_format {metadata['data_format']!r} is not one of {sorted(FORMAT_LIBRARIES)}")
    return metadata


def _check_hdf5(path: Path, composite: bool) -> int:
    """
    Refuse what points at other files, and arrays that claim to be far larger than what is stored of them.

    :param path: The file.
    :param composite: Whether an observation is a group of arrays.
    :return: The number of episodes.
    """
    h5py, file_size = require("h5py", "minari"), path.stat().st_size

    def check(group: Any) -> None:
        for name in group:
            item = get_member(group, name)
            with naming(item.name):
                # A group that holds itself has no end, and arrays of many names would let a small file fill the memory.
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise DatasetError("is refused: the file has several names for it")
                seen.add(address)
                if item.name.count("/") > MAX_DEPTH:
                    raise DatasetError(f"is refused: it lies more than {MAX_DEPTH} groups deep")
                if not isinstance(item, h5py.Group):
                    if not item.shape and "/infos/" not in item.name:
                        raise DatasetError("is a single value: expected one row per step")
                    checked_storage(item, file_size)
            if isinstance(item, h5py.Group):
                check(item)

    with naming(path.name, separator=": "), h5py.File(path, "r") as file:
        for episode in (name for name in file if name.startswith("episode_")):
            for field in EPISODE_FIELDS:
                get_member(file, f"{episode}/{field}", "Group" if composite and field == "observations" else "Dataset")
        seen = {h5py.h5o.get_info(file.id).addr}
        check(file)
        return len(file)


def _check_arrow(folder: Path, data_format: str) -> int:
    """
    Arrow trusts the offsets in its files unless they are validated, and Minari does not validate them.

    :param folder: The folder of the episodes.
    :param data_format: ``"arrow"`` or ``"parquet"``.
    :return: The number of episodes.
    """
    arrow_dataset = require("pyarrow.dataset", "minari")
    episodes = sorted(episode for episode in folder.iterdir() if episode.is_dir())
    # This reads everything: half of the work is done here.
    for episode in track(episodes, len(episodes), 0.5):
        files = arrow_dataset.dataset(str(episode), format=data_format, ignore_prefixes=["_", ".", METADATA])
        file_size, n_bytes, batches = sum(Path(file).stat().st_size for file in files.files), 0, []
        for batch in files.to_batches():
            n_bytes += batch.nbytes
            check_size(n_bytes, file_size)
            batch.validate(full=True)
            batches.append(batch)
        if len(batches) != 1:
            # Minari 0.5.4 takes each batch for an episode of its own; Arrow cuts long ones, at 32768 rows when it writes.
            raise DatasetError(
                f"episode {episode.name} is in {len(batches)} batches, which Minari cannot read: long ones need hdf5"
            )
    return len(episodes)


def save_minari(dataset: OfflineDataset, dataset_id: str, data_format: str = "hdf5") -> None:
    """
    Write a dataset to Minari's folder, whole or not at all. :func:`load_minari` reads it back.

    :param dataset: The dataset.
    :param dataset_id: Minari's name for it, such as ``"pendulum/mixed-v0"``.
    :param data_format: ``"hdf5"`` or ``"arrow"``.
    :raises DatasetError: when the id is malformed or exists, or when Minari's format cannot hold the data.
    """
    minari = require("minari", "minari")
    if data_format not in ("hdf5", "arrow"):
        raise DatasetError(f"data_format={data_format!r}: expected 'hdf5' or 'arrow'")
    require(FORMAT_LIBRARIES[data_format], "minari")
    folder = minari_folder(dataset_id)
    if folder.exists():
        raise DatasetError(f"{PREFIX}{dataset_id} exists already, in {folder}: choose another name or version")
    metadata: dict[str, Any] = {}
    if dataset.env_id is not None:
        metadata["env_spec"] = _env_spec(dataset.env_id)
    if dataset.reference_scores is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = dataset.reference_scores
    buffers = _buffers(dataset, minari.data_collector.EpisodeBuffer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for an author, a description and a link to the code
            minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                observation_space=dataset.observation_space,
                action_space=dataset.action_space,
                data_format=data_format,
                jpeg_encoding=False,
            )
        if data_format == "arrow":
            _check_arrow(folder / "data", data_format)
        # Given env=, Minari would make the environment, and roll a random policy in it for its scores.
        minari.load_dataset(dataset_id).storage.update_metadata(metadata)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, Exception):
            raise DatasetError(f"{PREFIX}{dataset_id}: cannot be written ({type(error).__name__}: {error})") from error
        raise


def _env_spec(env_id: str) -> str:
    try:
        return gym.registry[env_id].to_json()
    except (KeyError, TypeError, ValueError):
        # Not registered here, or registered with an object that JSON cannot hold: the name is kept.
        try:
            return EnvSpec(env_id).to_json()
        except gym.error.Error as error:
            raise DatasetError(f"env_id={env_id!r}: Minari cannot hold it ({error})") from error


def _buffers(dataset: OfflineDataset, buffer: Any) -> list[Any]:
    observations, following = dataset.observations, dataset.next_observations
    inner = np.setdiff1d(np.arange(len(dataset)), dataset.episode_ends - 1)
    for jumps in arrays_of(map_arrays(lambda s, following: following[inner] != s[inner + 1], observations, following)):
        if jumps.any():
            row = inner[np.argwhere(jumps)[0, 0]]
            raise DatasetError(
                f"next_observations row {row} is not observations row {row + 1}, in the same episode: "
                "Minari cannot hold that"
            )
    observations = map_named_arrays(_in_space, "observations", observations, dataset.observation_space)
    following = map_named_arrays(_in_space, "next_observations", following, dataset.observation_space)
    actions = _in_space("actions", dataset.actions, dataset.action_space)
    starts = np.append(0, dataset.episode_ends[:-1])
    return [
        buffer(
            observations=map_arrays(partial(_with_last, start, end), observations, following),
            actions=actions[start:end],
            rewards=dataset.rewards[start:end],
            terminations=dataset.terminations[start:end],
            truncations=dataset.truncations[start:end],
        )
        for start, end in zip(starts, dataset.episode_ends, strict=True)
    ]


def _with_last(start: int, end: int, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
    return np.concatenate([states[start:end], next_states[end - 1 : end]])


def _in_space(name: str, array: np.ndarray, space: spaces.Space) -> np.ndarray:
    """The same numbers in the space's type, as Minari's files have them."""
    if "/" in name:
        raise DatasetError(f"{name}: keys with a slash cannot be written")
    converted = array.astype(space.dtype)
    if not np.array_equal(converted, array):
        raise DatasetError(f"{name} cannot be written exactly as {space.dtype}, the type of its space {space}")
    return converted
