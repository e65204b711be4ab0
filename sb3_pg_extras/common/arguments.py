"""What is wrong with an argument, said before time is spent."""

import math
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


def check_numbers(algorithm: BaseAlgorithm, bounds: dict[str, tuple[float, float]], whole: bool = False) -> None:
    """
    :param algorithm: Whose attributes they are.
    :param bounds: Name -> the lowest and the highest value.
    :param whole: Whether they count something.
    :raises ValueError: for what is no finite number, as ``1e-3`` is none in YAML, and for what is out of bounds.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(algorithm, name)
        if is_number(value, lowest, highest) and (isinstance(value, Integral) or not whole):
            continue
        between = f" between {lowest} and {highest}" if highest < math.inf else ""
        at_least = f" of at least {lowest}" if not between and lowest > -math.inf else ""
        hint = "; YAML reads 1e-3 as a text, write 0.001 or !!float 1e-3" if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r}: must be a {'whole ' * whole}number{between}{at_least}{hint}")


def coefficient_bounds(algorithm: OnPolicyAlgorithm) -> dict[str, tuple[float, float]]:
    """
    :param algorithm: An actor-critic.
    :return: Bounds of its coefficients, for :func:`check_numbers`.
    """
    bounds = {"ent_coef": (-math.inf, math.inf), "vf_coef": (-math.inf, math.inf)}
    # None and infinity bound nothing; below 0 the gradient would turn round.
    bounded = algorithm.max_grad_norm not in (None, math.inf)
    return bounds | {"max_grad_norm": (0, math.inf)} if bounded else bounds
