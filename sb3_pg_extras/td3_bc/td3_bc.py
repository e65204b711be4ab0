"""TD3+BC: TD3 whose actor also clones the data (Fujimoto & Gu 2021, arXiv:2106.06860)."""

import math
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3 import TD3
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.td3.policies import TD3Policy

from sb3_pg_extras.datasets import DatasetSource
from sb3_pg_extras.offline.buffers import OfflineReplayBufferSamples
from sb3_pg_extras.offline.losses import ensemble_critic_loss, mixed_target_q_values
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.online import go_online
from sb3_pg_extras.offline.policies import descend, q_values, update_target
from sb3_pg_extras.td3_bc.policies import CnnPolicy, MlpPolicy, MultiInputPolicy


def actor_loss(actor_q_values: th.Tensor, actions: th.Tensor, data_actions: th.Tensor, alpha: float) -> th.Tensor:
    """
    ``-lambda mean Q(s, pi(s)) + mse(pi(s), a)`` with ``lambda = alpha / mean |Q(s, pi(s))|``, through which no gradient
    flows (``train`` in the authors' ``TD3_BC.py``).

    :param actor_q_values: Values of the actor's actions, shape (B, 1).
    :param actions: The actor's actions in [-1, 1], shape (B, A).
    :param data_actions: The dataset's, shape (B, A).
    :param alpha: Weight of the values; 0 is behaviour cloning.
    :return: scalar.
    """
    assert actions.shape == data_actions.shape and actor_q_values.shape == (len(actions), 1)
    weight = alpha / actor_q_values.detach().abs().mean().clamp(min=1e-8)  # all values may be 0
    return -weight * actor_q_values.mean() + th.nn.functional.mse_loss(actions, data_actions)


class TD3BC(OfflineAlgorithm):
    """
    TD3+BC: SB3's TD3 on a fixed dataset, with a behaviour cloning term in the actor's loss.

    Paper: https://arxiv.org/abs/2106.06860; the defaults are its settings. Deviations from the authors' code: observations
    are normalised as by ``VecNormalize`` (clipped to +-10), and time limits bootstrap.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset.
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes; None as in :class:`OfflineAlgorithm`.
    :param learning_rate: Learning rate of actor and critics, a number or a function of the remaining progress (1 to 0).
    :param batch_size: Transitions per gradient step.
    :param tau: Polyak coefficient of the target networks, between 0 and 1.
    :param gamma: Discount factor.
    :param alpha: Weight of the critic's values against cloning, see :func:`actor_loss`.
    :param policy_delay: The actor and the target networks are updated once every ``policy_delay`` gradient steps.
    :param target_policy_noise: Standard deviation of the noise on the target actor's actions, scaled to [-1, 1].
    :param target_noise_clip: Limit of that noise.
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param n_steps: Steps of the return in the critics' target. The steps are the data's, uncorrected.
    :param normalize_observations: Whether the networks normalise vectors with the dataset's mean and standard deviation;
        "auto" as in :class:`OfflineAlgorithm`.
    :param precision: "fp32", or "bf16" for matrix products in bfloat16.
    :param replay_buffer_kwargs: ``normalize_rewards=True`` divides rewards by the standard deviation of the return.
    :param policy_kwargs: Additional arguments of SB3's TD3 policy: ``net_arch``, [256, 256] by default, ...
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
    policy: TD3Policy
    actor = property(lambda self: self.policy.actor)
    critic = property(lambda self: self.policy.critic)

    def __init__(
        self,
        policy: str | type[TD3Policy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: float = 2.5,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
        n_collect_steps: int = 10_000,
        n_steps: int = 1,
        normalize_observations: bool | Literal["auto"] = "auto",
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
            precision=precision,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            supported_action_spaces=(spaces.Box,),
        )
        self.tau = tau
        self.alpha = alpha
        self.policy_delay = policy_delay
        self.target_policy_noise = target_policy_noise
        self.target_noise_clip = target_noise_clip
        if _init_setup_model:
            self._start()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_numbers({"policy_delay": (1, math.inf)}, integer=True)
        self._check_numbers(dict.fromkeys(("alpha", "target_policy_noise", "target_noise_clip"), (0, math.inf)))
        self._check_numbers({"tau": (0, 1)})

    def _full_policy_kwargs(self) -> dict[str, Any]:
        return {"net_arch": [256, 256], **super()._full_policy_kwargs()}

    def _setup_model(self) -> None:
        super()._setup_model()
        for network in ("critic", "actor"):
            self._add_optimizer(f"policy.{network}.optimizer")

    def _kind_of_step(self) -> bool:
        return (self._n_updates + 1) % self.policy_delay == 0

    def _update(self, batch: OfflineReplayBufferSamples, step: bool) -> dict[str, th.Tensor]:
        """
        One gradient step (Fujimoto et al. 2018, Algorithm 1, with the loss of Fujimoto & Gu 2021).

        :param batch: The transitions.
        :param step: Whether the actor learns too.
        :return: Losses for the log.
        """
        actor, critic = self.policy.actor, self.policy.critic
        logged = {"critic_loss": self._critic_loss(batch)}
        descend(critic.optimizer, logged["critic_loss"])
        if step:
            actions = actor(batch.observations).float()
            actor_q_values = critic.q1_forward(batch.observations, actions).float()
            loss = actor_loss(actor_q_values, actions, batch.actions, self.alpha)
            descend(actor.optimizer, loss)
            update_target(critic, self.policy.critic_target, self.tau)
            update_target(actor, self.policy.actor_target, self.tau)
            logged |= {"actor_loss": loss, "actor_q_value": actor_q_values.mean()}
        return {name: value.detach() for name, value in logged.items()}

    def _critic_loss(self, batch: OfflineReplayBufferSamples) -> th.Tensor:
        """``(Q_j(s, a) - r - gamma min_j Q'_j(s', pi'(s') + noise))^2``."""
        with th.no_grad():
            noise = self.target_policy_noise * th.randn(batch.actions.shape, generator=self.generator, device=self.device)
            noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
            next_actions = (self.policy.actor_target(batch.next_observations).float() + noise).clamp(-1, 1)
            next_q_values = q_values(self.policy.critic_target, batch.next_observations, next_actions.unsqueeze(1))
            targets = mixed_target_q_values(batch.rewards, batch.dones, next_q_values, batch.discounts, mixture=1.0)
        current = q_values(self.policy.critic, batch.observations, batch.actions.unsqueeze(1)).squeeze(2)
        return ensemble_critic_loss(current, targets)

    def to_td3(self, env: GymEnv | str | None = None, keep_dataset: bool = True, **td3_kwargs: Any) -> TD3:
        """
        Fine-tune online: a stock SB3 ``TD3`` with this model's networks, targets and arguments, and new optimisers.

        :param env: The environment: an id, an Env, or a VecEnv; None for this model's own.
        :param keep_dataset: Whether the dataset is put into the replay buffer. ``learning_starts`` is then 0 by default, and
            ``buffer_size`` (1,000,000 by default) is the room for new transitions.
        :param td3_kwargs: Other arguments of ``TD3``; of ``policy_kwargs`` only those of the optimiser.
        :return: The TD3 model.
        :raises ValueError: when ``env`` is missing or does not fit, when there is no dataset to keep, or for arguments that
            would change the networks.
        """
        names = ("learning_rate", "policy_delay", "target_policy_noise", "target_noise_clip")
        own = {name: getattr(self, name) for name in names}
        return go_online(self, TD3, TD3Policy, self._full_policy_kwargs(), env, keep_dataset, own | td3_kwargs)
