"""BEAR: offline Q-learning whose policy stays within the support of the data (Kumar et al. 2019, arXiv:1906.00949)."""

import math
import warnings
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_pg_extras.bear import losses, sac
from sb3_pg_extras.bear.behavior_samples import BehaviorSamples
from sb3_pg_extras.bear.policies import BEARPolicy, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_pg_extras.datasets import DatasetSource
from sb3_pg_extras.offline.buffers import OfflineReplayBufferSamples
from sb3_pg_extras.offline.losses import ensemble_critic_loss, mixed_target_q_values, vae_loss
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.policies import descend, q_values, update_target

SelfBEAR = TypeVar("SelfBEAR", bound="BEAR")

# The published thresholds.
DEFAULT_THRESHOLDS = {"mmd": 0.05, "kl": -2.0}
# The settings of the D4RL authors (Fu et al. 2020), where the defaults differ: BEAR("MlpPolicy", env, **PUBLISHED_PRESET).
PUBLISHED_PRESET: dict[str, Any] = {
    "learning_rate": 1e-4,
    "critic_learning_rate": 3e-4,
    "alpha_learning_rate": 1e-3,
    "mmd_threshold": 0.05,
    "mmd_estimator": "biased",
    "warmup_fraction": 0.08,
    "n_target_samples": 10,
    "n_steps": 1,
    "behavior_steps": None,
    "normalize_observations": False,
    "policy_kwargs": {"vae_net_arch": [750, 750]},
}
LOG_ALPHA_MIN = -5.0
# Later calls of learn() that take the training to this many times the first one's steps are warned of.
MANY_TIMES_THE_FIRST = 4
MIN_SIGMA = 1e-9


class Step(NamedTuple):
    """
    What a gradient step depends on, besides its batch.

    ``in_warmup``: the actor does not see the critics yet. ``behavior_is_frozen``: the VAE does not learn any more.
    ``threshold``: what the divergence is compared with, in its own unit, a scalar; None where the batch decides.
    """

    in_warmup: bool
    behavior_is_frozen: bool
    threshold: th.Tensor | None


class BEAR(OfflineAlgorithm):
    """
    Bootstrapping Error Accumulation Reduction (BEAR-QL).

    Q-learning on a fixed dataset fails where the policy takes actions that the data does not hold: their values are
    never corrected. BEAR bounds the maximum mean discrepancy (MMD) between samples of the policy and of a VAE of the
    data's actions, by a Lagrange multiplier alpha. With few samples and a wide kernel, that keeps the policy within the
    *support* of the data, not close to its distribution.

    The defaults are for short runs. ``PUBLISHED_PRESET`` has the D4RL authors' settings. Returns of both, and of the zoo's
    entries, are in ``docs/bear_results.md``.

    Paper: https://arxiv.org/abs/1906.00949. Code compared: the author's ``algos.py`` and the D4RL authors' version of
    it; deviations are numbered in ``docs/bear.md``.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset.
    :param dataset: Whatever :func:`~sb3_pg_extras.load_dataset` takes; None as in :class:`OfflineAlgorithm`.
    :param learning_rate: Learning rate of the actor, a number or a function of the remaining progress (from 1 to 0).
    :param critic_learning_rate: Likewise, of the critics.
    :param vae_learning_rate: Likewise, of the behaviour VAE.
    :param alpha_learning_rate: Likewise, of log alpha.
    :param batch_size: Transitions per gradient step.
    :param tau: Polyak coefficient of the target critics, between 0 and 1.
    :param gamma: Discount factor.
    :param divergence: What the constraint bounds: "mmd", or "kl" for -log pi of the behaviour's samples.
    :param mmd_kernel: "laplacian" or "gaussian".
    :param mmd_sigma: Bandwidth; the kernels divide by ``2 sigma``.
    :param n_mmd_samples: Actions per state drawn from policy and behaviour to compare them.
    :param mmd_threshold: epsilon, published are 0.05, and -2 for "kl". "auto" fits it to the data: how far from the
        behaviour one of its own actions is (:func:`losses.auto_threshold`), or further where the actor does not get as near
        (:func:`losses.slack_distance`). Alpha is then a quarter of the mean ``|Q|`` in the warm-up, and at least that later
        (:func:`losses.least_alpha`). None is "auto", but the published one with "kl" or a fixed ``alpha``.
    :param mmd_estimator: "pooled" takes the square root of the batch's mean MMD^2, "biased", as published, the mean of the
        states' roots; for equal distributions both read ``train/mmd_floor``. "unbiased" (a U-statistic) compares MMD^2 with
        ``mmd_threshold ** 2``. See :func:`losses.mmd_divergence`.
    :param alpha: The multiplier: "auto" to learn it, or a fixed number of at least 0.
    :param log_alpha_max: Upper bound of log alpha.
    :param vae_kl_weight: Weight of the KL term in the VAE's loss.
    :param warmup_fraction: Share of the first ``learn()``'s gradient steps during which the actor sees only the constraint,
        not the critics; published are 40,000 of 500,000 steps. ``warmup_steps`` holds their number from then on; set it to
        train in several calls.
    :param target_q_mixture: Weight of the minimum over critics in the target, the maximum has the rest.
    :param n_target_samples: Actions per next state; the target takes the best (published: 10).
    :param n_action_samples: Actions drawn when acting; the best under the first critic is taken. ``load`` takes another
        number for a trained model.
    :param q_reduction: How the actor's loss reduces the critics: "min", "max" or "mean".
    :param variance_penalty: Weight of the critics' disagreement in the actor's loss.
    :param bootstrap_probability: Probability that a critic learns from a transition, drawn once for each (1: all).
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param n_steps: Steps of the return in the critics' target, as in SB3's SAC. The steps are the data's, uncorrected.
    :param precision: "fp32", or "bf16" for matrix products in bfloat16 (weights and losses stay in single precision).
    :param behavior_steps: Gradient steps after which the behaviour VAE stops learning and its samples at the dataset's
        states are drawn once, so that later steps cost much less; "warmup" for those of the warm-up, if there is one. None
        trains it along with the rest, as published.
    :param normalize_observations: Whether the networks normalise vectors with the dataset's mean and standard deviation;
        ``predict`` takes observations as they are. "auto": if there are vectors, and no ``VecNormalize`` that does.
    :param replay_buffer_kwargs: ``normalize_rewards=True`` divides rewards by the standard deviation of the return.
    :param policy_kwargs: Additional arguments of the policy: ``net_arch``, ``vae_net_arch``, ``n_critics``, ...
    :param stats_window_size: Accepted as in all of SB3; there are no episodes to average over.
    :param tensorboard_log: Folder of the TensorBoard log, or None.
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param _init_setup_model: Whether to build the networks at once.
    :raises ValueError: for arguments that are out of range or contradict each other.
    :raises DatasetError: when the dataset cannot be used, or its spaces are not the environment's.
    """

    policy_aliases: ClassVar[Any] = {"MlpPolicy": MlpPolicy, "CnnPolicy": CnnPolicy, "MultiInputPolicy": MultiInputPolicy}
    default_total_timesteps: ClassVar[int] = 7_500
    cuda_graphs = True
    # From offline to online, and back.
    to_sac = sac.to_sac
    from_sac: ClassVar[Any] = classmethod(sac.from_sac)
    policy: BEARPolicy
    actor = property(lambda self: self.policy.actor)
    critic = property(lambda self: self.policy.critic)
    critic_target = property(lambda self: self.policy.critic_target)
    behavior_vae = property(lambda self: self.policy.behavior_vae)

    def __init__(
        self,
        policy: str | type[BEARPolicy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None = None,
        learning_rate: float | Schedule = 3e-4,
        critic_learning_rate: float | Schedule = 1e-3,
        vae_learning_rate: float | Schedule = 3e-4,
        alpha_learning_rate: float | Schedule = 3e-3,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        divergence: Literal["mmd", "kl"] = "mmd",
        mmd_kernel: Literal["laplacian", "gaussian"] = "laplacian",
        mmd_sigma: float = 20.0,
        n_mmd_samples: int = 4,
        mmd_threshold: float | Literal["auto"] | None = None,
        mmd_estimator: Literal["biased", "pooled", "unbiased"] = "pooled",
        alpha: float | Literal["auto"] = "auto",
        log_alpha_max: float = 10.0,
        vae_kl_weight: float = 0.5,
        warmup_fraction: float = 0.2,
        target_q_mixture: float = 0.75,
        n_target_samples: int = 1,
        n_action_samples: int = 100,
        q_reduction: Literal["min", "max", "mean"] = "min",
        variance_penalty: float = 0.0,
        bootstrap_probability: float = 1.0,
        n_collect_steps: int = 10_000,
        n_steps: int = 3,
        precision: Literal["fp32", "bf16"] = "fp32",
        behavior_steps: int | Literal["warmup"] | None = "warmup",
        normalize_observations: bool | Literal["auto"] = "auto",
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
            n_steps=n_steps,
            normalize_observations=normalize_observations,
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
        self.critic_learning_rate = critic_learning_rate
        self.vae_learning_rate = vae_learning_rate
        self.alpha_learning_rate = alpha_learning_rate
        self.tau = tau
        self.divergence = divergence
        self.mmd_kernel = mmd_kernel
        self.mmd_sigma = mmd_sigma
        self.n_mmd_samples = n_mmd_samples
        default: Any = "auto" if (alpha, divergence) == ("auto", "mmd") else DEFAULT_THRESHOLDS.get(divergence, 0.0)
        self.mmd_threshold = default if mmd_threshold is None else mmd_threshold
        self.mmd_estimator = mmd_estimator
        self.alpha = alpha
        self.log_alpha_max = log_alpha_max
        self.vae_kl_weight = vae_kl_weight
        self.warmup_fraction = warmup_fraction
        self.warmup_steps: int | None = None
        # Of the learn() that set warmup_steps; None if the user did.
        self._steps_of_first_learn: int | None = None
        self.target_q_mixture = target_q_mixture
        self.n_target_samples = n_target_samples
        self.n_action_samples = n_action_samples
        self.q_reduction = q_reduction
        self.variance_penalty = variance_penalty
        self.bootstrap_probability = bootstrap_probability
        self.behavior_steps = behavior_steps
        # Seed of what is drawn once for each row of the dataset; saved, so that a resumed training draws the same.
        self._seed_of_dataset_draws: int | None = None
        self._bootstrap_masks: th.Tensor | None = None
        self._behavior_samples: BehaviorSamples | None = None

        if _init_setup_model:
            self._start()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_choices(
            {
                "divergence": ("mmd", "kl"),
                "mmd_kernel": ("laplacian", "gaussian"),
                "mmd_estimator": ("biased", "pooled", "unbiased"),
                "q_reduction": ("min", "max", "mean"),
            }
        )
        sizes = ("n_mmd_samples", "n_target_samples", "n_action_samples")
        self._check_numbers(dict.fromkeys(sizes, (1, math.inf)), integer=True)
        self._check_numbers(dict.fromkeys(("vae_kl_weight", "variance_penalty"), (0, math.inf)))
        self._check_numbers(dict.fromkeys(("tau", "target_q_mixture", "bootstrap_probability", "warmup_fraction"), (0, 1)))
        self._check_numbers({"mmd_sigma": (MIN_SIGMA, math.inf), "log_alpha_max": (-math.inf, math.inf)})
        if self.behavior_steps not in (None, "warmup"):
            self._check_numbers({"behavior_steps": (1, math.inf)})
        if self.alpha != "auto":
            self._check_numbers({"alpha": (0, math.inf)})
        if self.mmd_threshold != "auto":
            self._check_numbers({"mmd_threshold": (-math.inf, math.inf)})
        n_candidates = self.policy_kwargs.get("n_action_samples", self.n_action_samples)
        n_critics = self.policy_kwargs.get("n_critics", 2)
        unbiased, auto = self.mmd_estimator == "unbiased", self.mmd_threshold == "auto"
        kl, single, hint = self.divergence == "kl", self.n_mmd_samples < 2, "give mmd_threshold a number"
        own, penalty = self.n_action_samples, self.variance_penalty
        wrong = {
            "bootstrap_probability=0: no critic would learn anything": self.bootstrap_probability == 0,
            'mmd_estimator="unbiased" estimates an MMD, but divergence="kl"': unbiased and kl,
            'mmd_estimator="unbiased" needs n_mmd_samples of at least 2, not 1': unbiased and single,
            f'mmd_threshold="auto" needs alpha="auto", not {self.alpha}: {hint}': auto and self.alpha != "auto",
            f'mmd_threshold="auto" is for the MMD, but divergence="kl": {hint}': auto and kl,
            f'mmd_threshold="auto", the default, needs n_mmd_samples of at least 2, not 1: {hint}': auto and single,
            f"n_action_samples={own} and policy_kwargs n_action_samples={n_candidates}: leave it out": n_candidates != own,
            f"policy_kwargs n_critics={n_critics}: must be at least 1": n_critics < 1,
            f"variance_penalty={penalty} needs n_critics of at least 2, not {n_critics}": penalty > 0 and n_critics < 2,
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(message)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.log_alpha = th.log(th.ones(1, device=self.device) * (1.0 if self.alpha == "auto" else float(self.alpha)))
        # What "auto" has added to its threshold, in the unit of losses.mmd_divergence.
        self.mmd_slack = th.zeros(1, device=self.device)
        self.alpha_optimizer: th.optim.Adam | None = None
        if self.alpha == "auto":
            self.log_alpha.requires_grad_(True)
            self.alpha_optimizer = th.optim.Adam([self.log_alpha], FloatSchedule(self.alpha_learning_rate)(1), fused=True)
            self._add_optimizer("alpha_optimizer", "alpha_learning_rate")
        self._add_optimizer("actor.optimizer")
        self._add_optimizer("critic.optimizer", "critic_learning_rate")
        self._add_optimizer("behavior_vae.optimizer", "vae_learning_rate")
        if self._seed_of_dataset_draws is None:
            self._seed_of_dataset_draws = int(th.randint(2**31, (1,)))

    def _full_policy_kwargs(self) -> dict[str, Any]:
        return {**super()._full_policy_kwargs(), "n_action_samples": self.n_action_samples}

    def _kind_of_step(self) -> Step:
        in_warmup = self._n_updates < (self.warmup_steps or 0)
        threshold = None
        if self.mmd_threshold != "auto":
            # The data type must not be that of the user's number: a captured step copies into it.
            bound = float(losses.bound_of(self.mmd_threshold, self.mmd_estimator))
            threshold = th.tensor(bound, dtype=th.float32, device=self.device)
        return Step(in_warmup, self.behavior_is_frozen, threshold)

    def _update(self, batch: OfflineReplayBufferSamples, step: Step) -> dict[str, th.Tensor]:
        """
        One gradient step (Kumar et al. 2019, Algorithm 1).

        :param batch: The transitions.
        :param step: What kind of step it is.
        :return: Figures for the log.
        """
        logged: dict[str, th.Tensor] = {}
        if not step.behavior_is_frozen:
            descend(self.behavior_vae.optimizer, self._vae_loss(batch, logged))
        critic_loss, current_q_values = self._critic_loss(batch, logged)
        descend(self.critic.optimizer, critic_loss)
        actor_loss, divergence, threshold = self._actor_loss(batch, step, logged)
        descend(self.actor.optimizer, actor_loss)
        if self.alpha_optimizer is not None:
            logged["alpha_loss"] = losses.alpha_loss(self.log_alpha, divergence, threshold)
            descend(self.alpha_optimizer, logged["alpha_loss"])
            self._bound_alpha(step, current_q_values, divergence, threshold, logged)
        update_target(self.critic, self.critic_target, self.tau)
        logged["alpha"] = self.log_alpha.exp().mean()
        return {name: value.detach() for name, value in logged.items()}

    @th.no_grad()
    def _bound_alpha(
        self,
        step: Step,
        current_q_values: th.Tensor,
        divergence: th.Tensor,
        threshold: th.Tensor,
        logged: dict[str, th.Tensor],
    ) -> None:
        """Keep alpha within its bounds. With ``mmd_threshold="auto"`` its upper bound ends in a larger threshold."""
        if self.mmd_threshold == "auto":
            logged["least_alpha"] = losses.least_alpha(current_q_values)
            least = logged["least_alpha"].log()
            if step.in_warmup:
                # The actor sees the constraint alone: alpha waits at its lower bound.
                self.log_alpha.copy_(least)
            else:
                self.log_alpha.copy_(self.log_alpha.maximum(least))
                distance = losses.slack_distance(self.log_alpha, self.log_alpha_max, divergence, threshold)
                self.mmd_slack.add_(distance, alpha=losses.SLACK_RATE)
        self.log_alpha.clamp_(LOG_ALPHA_MIN, self.log_alpha_max)

    def _vae_loss(self, batch: OfflineReplayBufferSamples, logged: dict[str, th.Tensor]) -> th.Tensor:
        """``mse(reconstruction, a) + vae_kl_weight KL``."""
        noise = self._noise(len(batch.actions), self.behavior_vae.latent_dim)
        reconstruction, mean, log_std = self.behavior_vae(batch.observations, batch.actions, noise)
        reconstruction_loss, kl_loss = vae_loss(reconstruction, batch.actions, mean, log_std)
        logged |= {"reconstruction_loss": reconstruction_loss, "kl_loss": kl_loss}
        return reconstruction_loss + self.vae_kl_weight * kl_loss

    def _critic_loss(self, batch: OfflineReplayBufferSamples, logged: dict[str, th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
        """``(Q_j(s, a) - y)^2``, y the best of ``n_target_samples`` policy actions under the target critics; and ``Q_j``."""
        with th.no_grad():
            noise = self._action_noise(batch, self.n_target_samples)
            next_actions = th.tanh(self.policy.raw_actions(batch.next_observations, noise)[0])
            next_q_values = q_values(self.critic_target, batch.next_observations, next_actions)
            target_q_values = mixed_target_q_values(
                batch.rewards, batch.dones, next_q_values, batch.discounts, self.target_q_mixture
            )
        current_q_values = q_values(self.critic, batch.observations, batch.actions.unsqueeze(1)).squeeze(2)
        critic_loss = ensemble_critic_loss(current_q_values, target_q_values, self._masks_of(batch.indices))
        # How far the critics disagree.
        q_value_std = current_q_values.detach().std(dim=0, unbiased=False).mean()
        logged |= {"critic_loss": critic_loss, "q_value": current_q_values.mean(), "q_value_std": q_value_std}
        logged["target_q_value"] = target_q_values.mean()
        return critic_loss, current_q_values

    def _actor_loss(
        self, batch: OfflineReplayBufferSamples, step: Step, logged: dict[str, th.Tensor]
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """``-Q(s, a) + alpha (divergence - threshold)``, in the warm-up without Q; the divergence; and its threshold."""
        raw_actions, mean, log_std = self.policy.raw_actions(
            batch.observations, self._action_noise(batch, self.n_mmd_samples)
        )
        behavior_actions = self._behavior_actions(batch, step)
        how = (self.mmd_kernel, self.mmd_sigma, self.mmd_estimator)
        if self.divergence == "mmd":
            divergence = losses.mmd_divergence(raw_actions, behavior_actions, *how)
            if self.n_mmd_samples > 1:
                logged["mmd_floor"] = losses.mmd_noise_floor(behavior_actions, *how)
        else:
            divergence = losses.kl_divergence(behavior_actions, mean, log_std)
        threshold = step.threshold
        if threshold is None:
            threshold = losses.auto_threshold(behavior_actions, *how) + self.mmd_slack
        actor_loss = losses.support_penalty(self.log_alpha.exp(), divergence, threshold).sum()
        if not step.in_warmup:
            policy_actions = th.tanh(raw_actions[:, :1])
            values = q_values(self.critic, batch.observations, policy_actions).squeeze(2)
            actor_q_value = losses.reduce_q_values(values, self.q_reduction, self.variance_penalty).mean()
            actor_loss = actor_loss - actor_q_value
            logged["actor_q_value"] = actor_q_value
        logged |= {"actor_loss": actor_loss, "std": log_std.exp().mean()}
        logged[self.divergence] = losses.in_unit_of_epsilon(divergence.detach(), self.mmd_estimator)
        logged["mmd_threshold"] = losses.in_unit_of_epsilon(threshold, self.mmd_estimator)
        return actor_loss, divergence, threshold

    def _behavior_actions(self, batch: OfflineReplayBufferSamples, step: Step) -> th.Tensor:
        """Pre-tanh actions of the behaviour, shape (B, n_mmd_samples, A), without gradient."""
        buffer, seed = self.replay_buffer, self._seed_of_dataset_draws
        assert buffer is not None and seed is not None
        if step.behavior_is_frozen and BehaviorSamples.has_room(buffer, self.n_mmd_samples):
            if self._behavior_samples is None or not self._behavior_samples.are_of(self.behavior_vae):
                env = self._vec_normalize_env
                self._behavior_samples = BehaviorSamples(self.behavior_vae, buffer, env, seed, self.verbose)
            return self._behavior_samples.take(batch.indices, self.n_mmd_samples, self.generator)
        with th.no_grad():
            noise = self._noise(len(batch.actions), self.n_mmd_samples, self.behavior_vae.latent_dim)
            return self.behavior_vae.raw_actions(batch.observations, noise)

    @property
    def behavior_is_frozen(self) -> bool:
        """:return: Whether the behaviour VAE has had its ``behavior_steps`` and does not learn any more."""
        n_steps = self.warmup_steps or None if self.behavior_steps == "warmup" else self.behavior_steps
        return n_steps is not None and self._n_updates >= int(n_steps)

    def _noise(self, *shape: int) -> th.Tensor:
        return th.randn(shape, generator=self.generator, device=self.device)

    def _action_noise(self, batch: OfflineReplayBufferSamples, n_samples: int) -> th.Tensor:
        return self._noise(len(batch.actions), n_samples, batch.actions.shape[1])

    def _masks_of(self, indices: th.Tensor) -> th.Tensor | None:
        """Which critics learn from which transitions, drawn once per dataset: shape (C, B), or None for all."""
        if self.bootstrap_probability == 1.0:
            return None
        assert self.replay_buffer is not None and self._seed_of_dataset_draws is not None
        if self._bootstrap_masks is None:
            n_rows = len(self.replay_buffer.whole_dataset())  # the rows of a sharded one are not numbered
            generator = th.Generator().manual_seed(self._seed_of_dataset_draws)
            draws = th.rand((len(self.critic.q_networks), n_rows), generator=generator)
            self._bootstrap_masks = (draws < self.bootstrap_probability).to(self.device)
        return self._bootstrap_masks[:, indices].float()

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        # Checks the arguments, too.
        last_step, callback = super()._setup_learn(total_timesteps, *args, **kwargs)
        if self.warmup_steps is None:
            self.warmup_steps = round(self.warmup_fraction * total_timesteps)
            self._steps_of_first_learn = total_timesteps
        elif self.warmup_fraction > 0 and last_step > MANY_TIMES_THE_FIRST * (self._steps_of_first_learn or math.inf):
            warnings.warn(
                f"warmup_steps={self.warmup_steps} is a share of the first learn() alone: to train in several calls, set "
                "model.warmup_steps before the first"
            )
        return last_step, callback

    def set_dataset(self, dataset: DatasetSource) -> None:
        """As :meth:`OfflineAlgorithm.set_dataset`."""
        super().set_dataset(dataset)
        self._behavior_samples = self._bootstrap_masks = None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_bootstrap_masks", "_behavior_samples"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return super()._get_torch_save_params()[0], ["log_alpha", "mmd_slack"]
