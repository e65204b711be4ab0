"""One array, or a dict of arrays for a Dict observation: the same code for both."""

from collections.abc import Callable
from typing import Any


def map_arrays(function: Callable[..., Any], value: Any, *others: Any) -> Any:
    """
    Apply a function to an array, or to each entry of a dict of arrays.

    :param function: Called with an array and its counterpart in each of ``others``.
    :param value: An array, or a dict of arrays.
    :param others: Like ``value``; beside a dict anything that has its keys, such as a Dict space.
    :return: What ``function`` returned: for a dict a dict with the same keys, in the same order.
    :raises KeyError: when one of ``others`` lacks a key of ``value``.
    """
    if isinstance(value, dict):
        return {key: function(array, *(other[key] for other in others)) for key, array in value.items()}
    return function(value, *others)


def arrays_of(value: Any) -> list[Any]:
    """
    :param value: An array, or a dict of arrays.
    :return: The arrays.
    """
    return list(value.values()) if isinstance(value, dict) else [value]


def named_arrays(name: str, value: Any) -> list[tuple[str, Any]]:
    """
    :param name: What messages call ``value``.
    :param value: An array, or a dict of arrays.
    :return: The arrays with the names that messages use: ``name``, or ``name['key']`` for each entry of a dict.
    """
    return [(f"{name}[{key!r}]", array) for key, array in value.items()] if isinstance(value, dict) else [(name, value)]
