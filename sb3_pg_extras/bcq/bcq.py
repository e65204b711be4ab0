"""BCQ: Q-learning over the actions of a behaviour model, slightly perturbed (Fujimoto et al. 2019, arXiv:1812.02900)."""

import math
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_pg_extras.bcq.policies import BCQPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_pg_extras.datasets import DatasetSource
from sb3_pg_extras.offline.buffers import OfflineReplayBufferSamples
from sb3_pg_extras.offline.losses import ensemble_critic_loss, mixed_target_q_values, vae_loss
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.policies import descend, q_values, update_target


class BCQ(OfflineAlgorithm):
    """
    Batch-Constrained deep Q-learning: the policy takes the best of several actions, drawn from a VAE of the data's actions
    and moved a little by a perturbation network.

    Paper: https://arxiv.org/abs/1812.02900. The defaults are those of the authors' ``BCQ.py`` for continuous actions.
    Deviations from it: time limits bootstrap, and ``deterministic=True`` fixes the noise of the candidate actions.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset.
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes; None as in :class:`OfflineAlgorithm`.
    :param learning_rate: Learning rate of all networks, a number or a function of the remaining progress (from 1 to 0).
    :param batch_size: Transitions per gradient step.
    :param tau: Polyak coefficient of the target networks, between 0 and 1.
    :param gamma: Discount factor.
    :param max_perturbation: Phi, how far each dimension of an action, scaled to [-1, 1], may be moved.
    :param vae_kl_weight: Weight of the KL term in the VAE's loss.
    :param target_q_mixture: Weight of the minimum over critics in the target, the maximum has the rest (lambda).
    :param n_target_samples: Actions per next state; the target takes the best.
    :param n_action_samples: Candidates when acting; the best under the first critic is taken. ``load`` takes another number
        and another ``max_perturbation`` for a trained model.
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param n_steps: Steps of the return in the critics' target. The steps are the data's, uncorrected.
    :param normalize_observations: Whether the networks normalise vectors with the dataset's mean and standard deviation.
    :param precision: "fp32", or "bf16" for matrix products in bfloat16.
    :param replay_buffer_kwargs: ``normalize_rewards=True`` divides rewards by the standard deviation of the return.
    :param policy_kwargs: Additional arguments of the policy: ``net_arch``, [400, 300] by default, ``vae_net_arch``, ...
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
    policy: BCQPolicy
    actor = property(lambda self: self.policy.actor)
    critic = property(lambda self: self.policy.critic)

    def __init__(
        self,
        policy: str | type[BCQPolicy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
        tau: float = 0.005,
        gamma: float = 0.99,
        max_perturbation: float = 0.05,
        vae_kl_weight: float = 0.5,
        target_q_mixture: float = 0.75,
        n_target_samples: int = 10,
        n_action_samples: int = 100,
        n_collect_steps: int = 10_000,
        n_steps: int = 1,
        normalize_observations: bool = False,
        precision: Literal["fp32", "bf16"] = "fp32",
        replay_buffer_kwargs: dict[str, Any] | None = None,
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
            gamma,
            n_collect_steps,
            n_steps,
            normalize_observations,
            precision,
            replay_buffer_kwargs,
            policy_kwargs,
            stats_window_size,
            tensorboard_log,
            verbose,
            seed,
            device,
            supported_action_spaces=(spaces.Box,),
        )
        self.tau = tau
        self.max_perturbation = max_perturbation
        self.vae_kl_weight = vae_kl_weight
        self.target_q_mixture = target_q_mixture
        self.n_target_samples = n_target_samples
        self.n_action_samples = n_action_samples
        if _init_setup_model:
            self._start()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_numbers(dict.fromkeys(("n_target_samples", "n_action_samples"), (1, math.inf)), integer=True)
        self._check_numbers({"vae_kl_weight": (0, math.inf), "max_perturbation": (0, 2)})
        self._check_numbers(dict.fromkeys(("tau", "target_q_mixture"), (0, 1)))

    def _full_policy_kwargs(self) -> dict[str, Any]:
        own = {"max_perturbation": self.max_perturbation, "n_action_samples": self.n_action_samples}
        return {**super()._full_policy_kwargs(), **own}

    def _setup_model(self) -> None:
        super()._setup_model()
        for network in ("behavior_vae", "critic", "actor"):
            self._add_optimizer(f"policy.{network}.optimizer")

    def _update(self, batch: OfflineReplayBufferSamples, step: Any) -> dict[str, th.Tensor]:
        """
        One gradient step (Fujimoto et al. 2019, Algorithm 1).

        :param batch: The transitions.
        :param step: Unused: all steps are alike.
        :return: Losses for the log.
        """
        policy, logged = self.policy, dict[str, th.Tensor]()
        descend(policy.behavior_vae.optimizer, self._vae_loss(batch, logged))
        descend(policy.critic.optimizer, self._critic_loss(batch, logged))
        descend(policy.actor.optimizer, self._actor_loss(batch, logged))
        update_target(policy.critic, policy.critic_target, self.tau)
        update_target(policy.actor, policy.actor_target, self.tau)
        return {name: value.detach() for name, value in logged.items()}

    def _vae_loss(self, batch: OfflineReplayBufferSamples, logged: dict[str, th.Tensor]) -> th.Tensor:
        """``mse(reconstruction, a) + vae_kl_weight KL``."""
        noise = self._latent_noise(batch, 1).squeeze(1)
        reconstruction, mean, log_std = self.policy.behavior_vae(batch.observations, batch.actions, noise)
        reconstruction_loss, kl_loss = vae_loss(reconstruction, batch.actions, mean, log_std)
        logged |= {"reconstruction_loss": reconstruction_loss, "kl_loss": kl_loss}
        return reconstruction_loss + self.vae_kl_weight * kl_loss

    def _critic_loss(self, batch: OfflineReplayBufferSamples, logged: dict[str, th.Tensor]) -> th.Tensor:
        """``(Q_j(s, a) - y)^2``, y the best of ``n_target_samples`` perturbed actions under the target critics."""
        policy = self.policy
        with th.no_grad():
            behavior = policy.behavior_actions(batch.next_observations, self._latent_noise(batch, self.n_target_samples))
            next_actions = policy.actor_target(batch.next_observations, behavior)
            next_q_values = q_values(policy.critic_target, batch.next_observations, next_actions)
            mixture = self.target_q_mixture
            targets = mixed_target_q_values(batch.rewards, batch.dones, next_q_values, batch.discounts, mixture)
        current = q_values(policy.critic, batch.observations, batch.actions.unsqueeze(1)).squeeze(2)
        logged["critic_loss"] = ensemble_critic_loss(current, targets)
        return logged["critic_loss"]

    def _actor_loss(self, batch: OfflineReplayBufferSamples, logged: dict[str, th.Tensor]) -> th.Tensor:
        """``-Q_1(s, a + xi(s, a))`` at an action of the VAE."""
        actions = self.policy.candidates(batch.observations, self._latent_noise(batch, 1)).squeeze(1)
        logged["actor_loss"] = -self.policy.critic.q1_forward(batch.observations, actions).float().mean()
        return logged["actor_loss"]

    def _latent_noise(self, batch: OfflineReplayBufferSamples, n_samples: int) -> th.Tensor:
        shape = (len(batch.actions), n_samples, self.policy.behavior_vae.latent_dim)
        return th.randn(shape, generator=self.generator, device=self.device)
