"""Behaviour cloning: supervised learning of the data's actions (Pomerleau 1991), the baseline for offline RL."""

from typing import Any, ClassVar, Literal

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.sac import policies
from stable_baselines3.sac.policies import SACPolicy
from torch.nn import functional as F

from sb3_pg_extras.datasets import DatasetSource
from sb3_pg_extras.offline.buffers import OfflineReplayBufferSamples
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.policies import FinitePolicy, descend


class MlpPolicy(FinitePolicy, SACPolicy):
    """SB3's SAC policy for vectors; only the actor learns."""


class CnnPolicy(MlpPolicy, policies.CnnPolicy):
    """The same for images."""


class MultiInputPolicy(MlpPolicy, policies.MultiInputPolicy):
    """The same for dicts of vectors and images."""


class BC(OfflineAlgorithm):
    """
    Behaviour cloning: ``min E (pi(s) - a)^2``, or ``max E log pi(a|s)``, over the dataset.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset.
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes; None as in :class:`OfflineAlgorithm`.
    :param learning_rate: Learning rate, a number or a function of the remaining progress (from 1 to 0).
    :param batch_size: Transitions per gradient step.
    :param actor_type: "deterministic" learns the actor's mean by mean squared error, "gaussian" its squashed Gaussian by
        maximum likelihood. The actor is that of SB3's SAC policy, whose critics are not used.
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param normalize_observations: Whether the actor normalises vectors with the dataset's mean and standard deviation.
    :param precision: "fp32", or "bf16" for matrix products in bfloat16.
    :param policy_kwargs: Additional arguments of the policy: ``net_arch``, ...
    :param stats_window_size: Accepted as in all of SB3; there are no episodes to average over.
    :param tensorboard_log: Folder of the TensorBoard log, or None.
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param _init_setup_model: Whether to read the dataset and build the networks at once.
    :raises ValueError: for arguments that are out of range.
    :raises DatasetError: when the dataset cannot be used, or its spaces are not the environment's.
    """

    policy_aliases: ClassVar[Any] = {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy, "MultiInputPolicy": MultiInputPolicy}
    cuda_graphs = True
    actor = property(lambda self: self.policy.actor)
    policy: SACPolicy

    def __init__(
        self,
        policy: str | type[SACPolicy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        actor_type: Literal["deterministic", "gaussian"] = "deterministic",
        n_collect_steps: int = 10_000,
        normalize_observations: bool = False,
        precision: Literal["fp32", "bf16"] = "fp32",
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            dataset,
            learning_rate,
            batch_size,
            n_collect_steps=n_collect_steps,
            normalize_observations=normalize_observations,
            precision=precision,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
        )
        self.actor_type = actor_type
        if _init_setup_model:
            self._start()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_choices({"actor_type": ("deterministic", "gaussian")})
        if self.policy_kwargs.get("use_sde"):
            raise ValueError("policy_kwargs use_sde=True: gSDE explores an environment, which BC never does. Leave it out")

    @property
    def has_likelihood(self) -> bool:
        """:return: Whether the actor learns a distribution, not its mean alone."""
        return self.actor_type == "gaussian"

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Any]:
        """As in SB3; with ``actor_type="deterministic"`` always the mean: the standard deviation has not been learned."""
        return super().predict(observation, state, episode_start, deterministic or not self.has_likelihood)

    def _setup_model(self) -> None:
        super()._setup_model()
        self._add_optimizer("policy.actor.optimizer")

    def _update(self, batch: OfflineReplayBufferSamples, step: Any) -> dict[str, th.Tensor]:
        """
        One gradient step.

        :param batch: The transitions, of which only states and actions are used.
        :param step: Unused: all steps are alike.
        :return: The loss, and the mean squared error of the actor's mean.
        """
        actor = self.policy.actor
        mean, log_std, _ = actor.get_action_dist_params(batch.observations)
        mean_squared_error = F.mse_loss(th.tanh(mean.float()), batch.actions)
        loss = mean_squared_error
        if self.has_likelihood:
            distribution: Any = actor.action_dist
            loss = -distribution.proba_distribution(mean.float(), log_std.float()).log_prob(batch.actions).mean()
        descend(actor.optimizer, loss)
        return {"loss": loss.detach(), "mean_squared_error": mean_squared_error.detach()}
