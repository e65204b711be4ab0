"""What is wrong with an argument, said before time is spent."""

import math
from numbers import Real

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm


def check_numbers(algorithm: BaseAlgorithm, bounds: dict[str, tuple[float, float]]) -> None:
    """
    :param algorithm: Whose attributes they are.
    :param bounds: Name -> the lowest and the highest value.
    :raises ValueError: for what is no number, as ``1e-3`` is none in YAML, and for what is out of bounds.
    """
    for name, (lowest, highest) in bounds.items():
        value = getattr(algorithm, name)
        if not isinstance(value, Real):
            hint = "; YAML reads 1e-3 as a text, write 0.001 or !!float 1e-3" if isinstance(value, str) else ""
            raise ValueError(f"{name}={value!r}: must be a number{hint}")
        if not lowest <= float(value) <= highest:
            wanted = f"at least {lowest}" if highest == math.inf else f"between {lowest} and {highest}"
            raise ValueError(f"{name}={value!r}: must be {wanted}")


def coefficient_bounds(algorithm: OnPolicyAlgorithm) -> dict[str, tuple[float, float]]:
    """
    :param algorithm: An actor-critic.
    :return: Bounds of its coefficients, for :func:`check_numbers`.
    """
    bounds = {"ent_coef": (-math.inf, math.inf), "vf_coef": (-math.inf, math.inf)}
    # None bounds nothing; below 0 the gradient would turn round.
    return bounds if algorithm.max_grad_norm is None else bounds | {"max_grad_norm": (0, math.inf)}
