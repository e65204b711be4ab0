"""What all algorithms share: arguments and weights are checked, models are saved whole or not at all."""

import io
import math
import pathlib
import pickle
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.common.dicts import arrays_of
from sb3_pg_extras.common.files import atomic_write, open_to_save

WHAT_TO_DO = (
    "If they come from the environment, correct it; else training diverged: lower the learning rate, or normalise "
    "observations and rewards with VecNormalize"
)


def is_number(value: Any, lowest: float = -math.inf, highest: float = math.inf) -> bool:
    """:return: Whether it is a finite number, at least ``lowest`` and at most ``highest``."""
    return isinstance(value, Real) and math.isfinite(value) and lowest <= float(value) <= highest


class WholeVecNormalize(VecNormalize):
    """SB3's ``VecNormalize``, with statistics that are saved whole or not at all. It is pickled as SB3's class."""

    def save(self, save_path: str) -> None:
        """:param save_path: The file to save the statistics and settings to."""
        with atomic_write(save_path) as file:
            pickle.dump(self, file)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return object.__new__, (VecNormalize,), self.__getstate__()


class WholePolicy(BasePolicy):
    """A policy that is saved whole or not at all, with the one constructor argument that most of SB3's leave out."""

    def _get_constructor_parameters(self) -> dict[str, Any]:
        name = "share_features_extractor"
        return super()._get_constructor_parameters() | ({name: getattr(self, name)} if hasattr(self, name) else {})

    def save(self, path: Any) -> None:
        """:param path: The file to save weights and constructor arguments to, or a file object."""
        with open_to_save(path) as file:
            super().save(file)  # type: ignore[arg-type]


class CheckedAlgorithm(BaseAlgorithm):
    """An algorithm that checks its arguments, stops when a weight is not finite, and is saved whole or not at all."""

    # Learning rates that may be None.
    _optional_rates: ClassVar[tuple[str, ...]] = ()

    def _check_arguments(self) -> None:
        """:raises ValueError: naming the argument and its value, before any time is spent."""
        if not hasattr(self, "observation_space"):
            raise ValueError(f"env=None: {type(self).__name__} needs an environment")
        if not isinstance(self.policy_kwargs, dict):
            raise ValueError(f"policy_kwargs={self.policy_kwargs!r}: must be a dict")
        rates = {name: value for name, value in vars(self).items() if name.endswith("learning_rate") and not callable(value)}
        missing = [name for name in self._optional_rates if rates.get(name) is None]
        self._check_numbers({name: (0, math.inf) for name in rates if name not in missing})

    def _check_numbers(self, bounds: Mapping[str, tuple[float, float]], integer: bool = False) -> None:
        """
        :param bounds: Name of an attribute -> its lowest and its highest allowed value.
        :param integer: Whether they must be integers.
        :raises ValueError: for a value that is not a finite number (YAML reads ``1e-3`` as a string) or is out of bounds.
        """
        for name, (lowest, highest) in bounds.items():
            value = getattr(self, name)
            if is_number(value, lowest, highest) and (isinstance(value, Integral) or not integer):
                continue
            kind = "an integer" if integer else "a number"
            between = f" between {lowest} and {highest}" if highest < math.inf else ""
            at_least = f" of at least {lowest}" if not between and lowest > -math.inf else ""
            hint = "; YAML reads 1e-3 as a string, write 0.001 or !!float 1e-3" if isinstance(value, str) else ""
            raise ValueError(f"{name}={value!r}: must be {kind}{between}{at_least}{hint}")

    def _check_choices(self, choices: Mapping[str, tuple[Any, ...]]) -> None:
        """
        :param choices: Name of an attribute -> the values it may have.
        :raises ValueError: for any other value.
        """
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {allowed}")

    def _check_learn(self, total_timesteps: Any, log_interval: Any) -> None:
        if not is_number(total_timesteps, 0):
            raise ValueError(f"total_timesteps={total_timesteps!r}: must be a number of at least 0")
        if log_interval is not None and not (isinstance(log_interval, Integral) and is_number(log_interval, 1)):
            raise ValueError(f"log_interval={log_interval!r}: must be an integer of at least 1, or None for no log")

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model as a zip file, whole or not at all.

        :param path: Path of the file (``.zip`` is added where no suffix is), or a file object.
        :param exclude: Names of attributes to leave out, besides the default ones.
        :param include: Names of attributes to save although they are left out by default.
        :raises ValueError: when a weight is not finite.
        """
        self._check_weights()
        with open_to_save(path, ".zip") as file:
            super().save(file, exclude, include)

    def export_onnx(self, path: str | pathlib.Path | io.BufferedIOBase, vec_normalize: bool | VecNormalize = True) -> None:
        """
        Write the policy as an ONNX file: :func:`sb3_pg_extras.common.export.export_onnx`.

        :param path: Path of the file (``.onnx`` is added where no suffix is), or a file object.
        :param vec_normalize: Whether the file normalises observations as the environment's ``VecNormalize`` does; or the
            ``VecNormalize`` to use instead.
        """
        from sb3_pg_extras.common.export import export_onnx

        export_onnx(self, path, vec_normalize)

    def export_torchscript(
        self, path: str | pathlib.Path | io.BufferedIOBase, vec_normalize: bool | VecNormalize = True
    ) -> None:
        """
        Write the policy as a TorchScript file: :func:`sb3_pg_extras.common.export.export_torchscript`.

        :param path: Path of the file (``.pt`` is added where no suffix is), or a file object.
        :param vec_normalize: As in :meth:`export_onnx`.
        """
        from sb3_pg_extras.common.export import export_torchscript

        export_torchscript(self, path, vec_normalize)

    def get_vec_normalize_env(self) -> VecNormalize | None:
        """:return: The ``VecNormalize`` wrapper of the environment, if it has one; callbacks save it beside the model."""
        env = super().get_vec_normalize_env()
        if type(env) is VecNormalize:
            env.__class__ = WholeVecNormalize
        return env

    def _check_finite(self, **quantities: Any) -> None:
        """
        :param quantities: Arrays, tensors or dicts of those by name, causes before effects.
        :raises ValueError: naming the first with an entry that is not a finite number.
        """
        for name, values in quantities.items():
            if not all(th.as_tensor(array).isfinite().all() for array in arrays_of(values)):
                raise ValueError(f"{name} not finite after {self.num_timesteps} steps: {values}. {WHAT_TO_DO}")

    def _check_weights(self) -> None:
        self._check_finite(**dict(self.policy.named_parameters()))
