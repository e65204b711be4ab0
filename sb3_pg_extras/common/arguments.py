"""Checks of constructor arguments, made before any time is spent."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm


def is_number(value: Any, lowest: float = -math.inf, highest: float = math.inf) -> bool:
    """
    :param value: Anything.
    :param lowest: The lowest number allowed.
    :param highest: The highest.
    :return: Whether it is a finite number between them.
    """
    return isinstance(value, Real) and math.isfinite(value) and lowest <= float(value) <= highest


def check_numbers(algorithm: BaseAlgorithm, bounds: Mapping[str, tuple[float, float]], integer: bool = False) -> None:
    """
    :param algorithm: The algorithm whose attributes are checked.
    :param bounds: Name of an attribute -> its lowest and its highest allowed value.
    :param integer: Whether they must be integers.
    :raises ValueError: for a value that is not a finite number (YAML reads ``1e-3`` as a string) or is out of bounds.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(algorithm, name)
        if is_number(value, lowest, highest) and (isinstance(value, Integral) or not integer):
            continue
        kind = "an integer" if integer else "a number"
        between = f" between {lowest} and {highest}" if highest < math.inf else ""
        at_least = f" of at least {lowest}" if not between and lowest > -math.inf else ""
        hint = "; YAML reads 1e-3 as a string, write 0.001 or !!float 1e-3" if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r}: must be {kind}{between}{at_least}{hint}")


def check_choices(algorithm: BaseAlgorithm, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """
    :param algorithm: The algorithm whose attributes are checked.
    :param choices: Name of an attribute -> the values it may have.
    :raises ValueError: for any other value.
    """
    for name, allowed in choices.items():
        if getattr(algorithm, name) not in allowed:
            raise ValueError(f"{name}={getattr(algorithm, name)!r}: must be one of {allowed}")
