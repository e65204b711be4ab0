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


def map_named_arrays(function: Callable[..., Any], name: str, value: Any, *others: Any) -> Any:
    """As :func:`map_arrays`; ``function`` first gets what messages call the array: ``name``, or ``name['key']``."""
    names = {key: f"{name}[{key!r}]" for key in value} if isinstance(value, dict) else name
    return map_arrays(lambda array, name, *rest: function(name, array, *rest), value, names, *others)


def arrays_of(value: Any) -> list[Any]:
    """:return: The array, or those of a dict, in a list."""
    return list(value.values()) if isinstance(value, dict) else [value]


def named_arrays(name: str, value: Any) -> list[tuple[str, Any]]:
    """:return: As :func:`arrays_of`, each with what messages call it: ``name``, or ``name['key']`` in a dict."""
    return arrays_of(map_named_arrays(lambda *pair: pair, name, value))
