"""What the on-policy algorithms share."""

import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common import policies
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_pg_extras.common.algorithm import WHAT_TO_DO, CheckedAlgorithm, WholePolicy
from sb3_pg_extras.fast.numpy_actor import NumpyActor

T = TypeVar("T")


class MlpPolicy(WholePolicy, ActorCriticPolicy):
    """SB3's policy for vectors."""

    acts_in_numpy = True


class CnnPolicy(WholePolicy, policies.ActorCriticCnnPolicy):
    """SB3's policy for images."""


class MultiInputPolicy(WholePolicy, policies.MultiInputActorCriticPolicy):
    """SB3's policy for dicts of vectors and images."""

    acts_in_numpy = True


class PolicyGradientAlgorithm(CheckedAlgorithm, OnPolicyAlgorithm):
    """
    SB3's on-policy algorithm with A2C's policies, all their action spaces, and a NumPy backend where it applies.

    :param policy: The policy.
    :param env: The environment.
    :param backend: "auto" for NumPy where the policy allows it, "torch" for PyTorch always.
    :param kwargs: The other arguments of SB3's ``OnPolicyAlgorithm``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy, "MultiInputPolicy": MultiInputPolicy
    }  # fmt: skip

    def __init__(self, policy: str | type[ActorCriticPolicy], env: GymEnv | str, *, backend: str, **kwargs: Any) -> None:
        action_spaces = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
        super().__init__(
            policy, env, gae_lambda=1.0, supported_action_spaces=action_spaces, _init_setup_model=False, **kwargs
        )
        self.backend = backend

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_choices({"backend": ("auto", "torch")})
        self._check_numbers({"gamma": (0, 1), "ent_coef": (-math.inf, math.inf), "vf_coef": (-math.inf, math.inf)})
        if self.max_grad_norm not in (None, math.inf):
            self._check_numbers({"max_grad_norm": (0, math.inf)})

    def _check_learn(self, total_timesteps: Any, log_interval: Any) -> None:
        super()._check_learn(total_timesteps, log_interval)
        if self.env is None:
            raise ValueError(f"this {type(self).__name__} has no environment: pass env= to load(), or call set_env()")

    def _draw(self, act: Callable[[Any], T]) -> T:
        """:return: ``act`` of the last observations, with the cause named where it fails on values that are not finite."""
        try:
            return act(self._last_obs)
        except ValueError as error:
            self._check_finite(observations=self._last_obs)
            self._check_weights()
            raise ValueError(f"no action after {self.num_timesteps} steps: {error}. {WHAT_TO_DO}") from error

    def _uses_numpy(self) -> bool:
        return self.backend == "auto" and NumpyActor.applies_to(self.policy)

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
    The last observation of an episode that a time limit cut: a VecEnv resets at once, and keeps it in the info.

    :param info: The info of the step that ended the episode.
    :return: The observation; None if the episode terminated. As in SB3, also None where the VecEnv did not keep it.
    """
    return info.get("terminal_observation") if info.get("TimeLimit.truncated", False) else None
