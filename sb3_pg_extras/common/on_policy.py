"""What the on-policy algorithms share."""

import io
import math
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_pg_extras.common.arguments import check_choices, check_numbers
from sb3_pg_extras.common.dicts import arrays_of
from sb3_pg_extras.common.files import open_to_save
from sb3_pg_extras.fast.numpy_actor import NumpyActor

T = TypeVar("T")

WHAT_TO_DO = (
    "If they come from the environment, correct it; else training diverged: lower the learning rate, or normalise "
    "observations and rewards with VecNormalize"
)


class PolicyGradientAlgorithm(OnPolicyAlgorithm):
    """
    SB3's on-policy algorithm with A2C's policies, on all action spaces they know, and with a NumPy backend where it applies.

    :param policy: The policy.
    :param env: The environment.
    :param backend: "auto" for NumPy where the policy allows it, "torch" for PyTorch always.
    :param kwargs: The other arguments of SB3's ``OnPolicyAlgorithm``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = A2C.policy_aliases
    _check_choices, _check_numbers = check_choices, check_numbers

    def __init__(self, policy: str | type[ActorCriticPolicy], env: GymEnv | str, *, backend: str, **kwargs: Any) -> None:
        action_spaces = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        super().__init__(
            policy, env, gae_lambda=1.0, supported_action_spaces=action_spaces, _init_setup_model=False, **kwargs
        )
        self.backend = backend

    def _check_arguments(self) -> None:
        """:raises ValueError: naming the argument and its value, before any time is spent."""
        self._check_choices({"backend": ("auto", "torch")})
        self._check_numbers({"gamma": (0, 1), "ent_coef": (-math.inf, math.inf), "vf_coef": (-math.inf, math.inf)})
        if self.max_grad_norm not in (None, math.inf):
            self._check_numbers({"max_grad_norm": (0, math.inf)})

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

    def _draw(self, act: Callable[[Any], T]) -> T:
        """:return: What ``act`` makes of the last observations; it may refuse what is not finite."""
        try:
            return act(self._last_obs)
        except ValueError as error:
            self._check_finite(observations=self._last_obs)
            self._check_weights()
            raise ValueError(f"no action after {self.num_timesteps} steps: {error}. {WHAT_TO_DO}") from error

    def _uses_numpy(self) -> bool:
        """:return: Whether actions are drawn in NumPy."""
        return self.backend == "auto" and NumpyActor.applies_to(self.policy)

    def _numpy_actor(self) -> NumpyActor | None:
        return NumpyActor(self.policy) if self._uses_numpy() else None

    def _environment_actions(self, actions: np.ndarray) -> np.ndarray:
        """
        What SB3's on-policy algorithms hand to the environment.

        :param actions: Actions as the policy drew them, shape (n_envs, *action_space.shape).
        :return: The same, scaled from [-1, 1] if the policy squashes its output, clipped to the action space if not.
        :raises ValueError: for an action that is not finite.
        """
        if not isinstance(self.action_space, spaces.Box):
            return actions
        # The sum is not finite if one of them is not, and is faster to check.
        if not math.isfinite(sum(actions.ravel().tolist())):
            self._check_finite(observations=self._last_obs, actions=actions)
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        # Faster than np.clip, whose wrappers cost more than the work.
        return np.minimum(np.maximum(actions, self.action_space.low), self.action_space.high)


def last_observation(info: dict[str, Any]) -> Any | None:
    """
    The state in which a time limit cut an episode: a VecEnv resets the environment at once, and keeps it in the info.

    :param info: The info of the step that ended the episode.
    :return: The observation; None if the episode terminated. As in SB3, also None where the VecEnv did not keep it.
    """
    return info.get("terminal_observation") if info.get("TimeLimit.truncated", False) else None
