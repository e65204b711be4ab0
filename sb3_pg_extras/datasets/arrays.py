"""Dicts of arrays -> OfflineDataset."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.common.dicts import map_arrays, named_arrays
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS, DatasetError, OfflineDataset, as_array

# Other names of the flags. A done may be a time limit: it does not become a terminal state by default.
ENDS = "'terminations' where a terminal state was reached and 'truncations' where a time limit was"
OTHER_NAMES = {
    **dict.fromkeys(("terminals", "terminal", "terminated", "termination"), "'terminations'"),
    **dict.fromkeys(("timeouts", "timeout", "truncated", "truncation"), "'truncations'"),
    **dict.fromkeys(("dones", "done"), ENDS),
}


def from_arrays(arrays: Mapping[str, Any], action_space: spaces.Space | None = None) -> OfflineDataset:
    """
    Make a dataset from a dict whose keys are the fields of :class:`OfflineDataset`.

    Spaces may be left out: the observation space is then an unbounded Box of the data's shape (0 to 255 for images),
    and the action space is ``action_space``.

    :param arrays: Arrays by field name; ``observation_space``, ``action_space``, ``env_id``, ``reference_scores``
        and ``episode_ends`` are optional.
    :param action_space: Used if ``arrays`` has no ``action_space``; algorithms pass their environment's.
    :return: The dataset.
    :raises DatasetError: when a field is missing, unknown or invalid.
    """
    known = [f.name for f in fields(OfflineDataset)]
    for name in arrays:
        if name not in known:
            hint = f" ({name!r} is called {OTHER_NAMES[name]} here)" if name in OTHER_NAMES else ""
            raise DatasetError(f"unknown field {name!r}: a dataset has the fields {known}{hint}")
    for name in ARRAY_FIELDS:
        if name not in arrays:
            raise DatasetError(f"field {name!r} is missing: a dataset needs {list(ARRAY_FIELDS)}")
    kwargs = dict(arrays)
    if kwargs.get("observation_space") is None:
        kwargs["observation_space"] = _infer_observation_space(arrays["observations"])
    if kwargs.get("action_space") is None:
        if action_space is None:
            raise DatasetError("field 'action_space' is missing: add it, or pass the environment, whose space is then used")
        kwargs["action_space"] = action_space
    dataset = OfflineDataset(**kwargs)
    if dataset.truncations.any() and not (dataset.truncations & ~dataset.terminations).any():
        warnings.warn(
            "every truncated row is terminated too, so no time limit counts as one. If terminations holds done = "
            "terminated or truncated, pass terminations & ~truncations"
        )
    return dataset


def joined(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """
    :param parts: Parts of a dataset, such as episodes or files: what messages call each, and its arrays, or dicts of arrays,
        by field name.
    :return: The rows of all parts one after the other, by field name.
    :raises DatasetError: when the fields of a part, or the shapes of their rows, are not those of the first.
    """
    expected: dict[str, Any] = {}
    for name, part in parts:
        shapes = {label: array.shape[1:] for field, value in part.items() for label, array in named_arrays(field, value)}
        expected = expected or shapes
        if shapes.keys() != expected.keys():
            raise DatasetError(f"{name} has the fields {sorted(shapes)}, the first one {sorted(expected)}")
        for label, shape in shapes.items():
            if shape != expected[label]:
                raise DatasetError(f"{name}: {label} has rows of shape {shape}, but {expected[label]} in the first one")
    return {
        name: map_arrays(lambda *arrays: np.concatenate(arrays), *(part[name] for _, part in parts)) for name in parts[0][1]
    }


def _infer_observation_space(observations: Any) -> spaces.Space:
    if isinstance(observations, Mapping):
        return spaces.Dict({key: _infer_observation_space(value) for key, value in observations.items()})
    array = as_array("observations", observations)
    if array.dtype == np.uint8 and array.ndim == 4:
        return spaces.Box(0, 255, array.shape[1:], np.uint8)
    # Networks take vectors: a single number per row is a vector of length 1.
    return spaces.Box(-np.inf, np.inf, array.shape[1:] or (1,), np.float32)
