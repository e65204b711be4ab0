"""What is wrong with an argument, said before time is spent."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


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
    :param algorithm: Whose attributes they are.
    :param bounds: Name -> the lowest and the highest value.
    :param integer: Whether they count something.
    :raises ValueError: for what is not a finite number (YAML reads ``1e-3`` as a string), and for what is out of bounds.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(algorithm, name)
        if is_number(value, lowest, highest) and (isinstance(value, Integral) or not integer):
            continue
        between = f" between {lowest} and {highest}" if highest < math.inf else ""
        at_least = f" of at least {lowest}" if not between and lowest > -math.inf else ""
        hint = "; YAML reads 1e-3 as a string, write 0.001 or !!float 1e-3" if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r}: must be a{'n integer' if integer else ' number'}{between}{at_least}{hint}")


def check_choices(algorithm: BaseAlgorithm, choices: Mapping[str, tuple[Any, ...]]) -> None:
    """
    :param algorithm: Whose attributes they are.
    :param choices: Name -> the values allowed.
    :raises ValueError: for another value.
    """
    for name, allowed in choices.items():
        if getattr(algorithm, name) not in allowed:
            raise ValueError(f"{name}={getattr(algorithm, name)!r}: must be one of {allowed}")


def coefficient_bounds(algorithm: OnPolicyAlgorithm) -> dict[str, tuple[float, float]]:
    """
    :param algorithm: An actor-critic.
    :return: Bounds of its coefficients, for :func:`check_numbers`.
    """
    bounds = {"ent_coef": (-math.inf, math.inf), "vf_coef": (-math.inf, math.inf)}
    # None and infinity bound nothing; below 0 the gradient would turn round.
    bounded = algorithm.max_grad_norm not in (None, math.inf)
    return bounds | {"max_grad_norm": (0, math.inf)} if bounded else bounds
