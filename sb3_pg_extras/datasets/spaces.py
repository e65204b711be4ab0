"""Spaces as JSON, and back."""

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pg_extras.datasets.dataset import DatasetError

# Numbers in one observation or action: 4096 x 4096.
MAX_BOX = 1 << 24
# Type of a space -> the arguments of its constructor.
ARGUMENTS = {"Discrete": ("n", "start"), "MultiDiscrete": ("nvec", "start"), "MultiBinary": ("n",)}


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """
    :param space: A Box, Discrete, MultiDiscrete, MultiBinary or Dict space.
    :return: The same as JSON values; a Box's bounds are one number each where all its entries agree.
    :raises DatasetError: for any other type of space.
    """
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound_to_json(space.low), "high": _bound_to_json(space.high)}
        return {"type": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {key: space_to_json(value) for key, value in space.spaces.items()}}
    for kind, names in ARGUMENTS.items():
        if isinstance(space, getattr(spaces, kind)):
            return {"type": kind} | {name: np.asarray(getattr(space, name)).tolist() for name in names}
    raise DatasetError(f"spaces of type {type(space).__name__} cannot be written to .npz")


def _bound_to_json(bound: np.ndarray) -> Any:
    return bound.flat[0].item() if bound.size and (bound == bound.flat[0]).all() else bound.tolist()


def space_from_json(data: dict[str, Any]) -> spaces.Space:
    """
    :param data: What :func:`space_to_json` returned.
    :return: The space.
    :raises DatasetError: when the type is not one that it writes.
    """
    kind = data["type"]
    if kind == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        if math.prod(shape) > MAX_BOX:
            raise DatasetError(f"a Box of shape {shape} is larger than any observation")
        low, high = (np.broadcast_to(np.array(data[name], dtype=dtype), shape) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Dict":
        return spaces.Dict({key: space_from_json(value) for key, value in data["spaces"].items()})
    if kind not in ARGUMENTS:
        raise DatasetError(f"unknown type of space {kind!r}")
    return getattr(spaces, kind)(**{name: data[name] for name in ARGUMENTS[kind] if name in data})
