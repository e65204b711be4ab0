"""BEAR: offline Q-learning whose policy stays within the support of the data (Kumar et al. 2019, arXiv:1906.00949)."""

import math
import warnings
from typing import Any, ClassVar, Literal, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import FloatSchedule, get_parameters_by_name, polyak_update, update_learning_rate
from stable_baselines3.sac.policies import Actor, SACPolicy
from tqdm import tqdm

from sb3_pg_extras.bear import losses
from sb3_pg_extras.bear import sac as online
from sb3_pg_extras.bear.policies import BEARPolicy, BehaviorVAE, CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_pg_extras.common.arguments import check_numbers, is_number
from sb3_pg_extras.datasets import DatasetSource
from sb3_pg_extras.fast.cuda_graphs import RecordedSteps
from sb3_pg_extras.fast.matmuls import fast_matmuls, has_bf16
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.stream_buffer import StreamReplayBuffer

SelfBEAR = TypeVar("SelfBEAR", bound="BEAR")

# Defaults of mmd_threshold: the published ones for each divergence.
DEFAULT_THRESHOLDS = {"mmd": 0.05, "kl": -2.0}
LOG_ALPHA_MIN = -5.0
# mmd_threshold="auto": this much above the mean divergence of the warm-up's last steps.
AUTO_MARGIN = 0.1
AUTO_WINDOW = 1000
# Gradient steps between two looks at the noise floor, which is only logged.
NOISE_FLOOR_EVERY = 10
# behavior_steps: samples per state that are kept at most, and states whose samples are drawn at a time.
MAX_CACHED_SAMPLES = 16
CACHED_AT_ONCE = 256
# Arguments that count something there has to be.
SIZES = ("batch_size", "n_mmd_samples", "n_target_samples", "n_action_samples", "n_collect_steps", "n_steps")
AT_LEAST_0 = ("vae_kl_weight", "warmup_steps", "variance_penalty", "behavior_cache_bytes")
SHARES = ("tau", "gamma", "target_q_mixture", "bootstrap_probability")
LEARNING_RATES = ("learning_rate", "critic_learning_rate", "vae_learning_rate", "alpha_learning_rate")
MIN_SIGMA = 1e-9


class BEAR(OfflineAlgorithm):
    """
    Bootstrapping Error Accumulation Reduction (BEAR-QL).

    Q-learning on a fixed dataset fails where the policy takes actions that the data does not hold: their values are
    never corrected. BEAR bounds the maximum mean discrepancy (MMD) between samples of the policy and of a VAE of the
    data's actions, by a Lagrange multiplier alpha. With few samples and a wide kernel, that keeps the policy within the
    *support* of the data, not close to its distribution.

    Paper: https://arxiv.org/abs/1906.00949. Code compared: the author's ``algos.py`` and the D4RL authors' version of
    it, whose defaults these are; deviations are numbered in ``docs/bear.md``.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset.
    :param dataset: An ``.npz`` or ``replay_buffer.pkl`` path, an SB3 ReplayBuffer, a dict of arrays, ``"bundled:<name>"``
        or an ``OfflineDataset``. None takes the dataset that is bundled for the environment, or else, with a warning,
        ``n_collect_steps`` uniformly random steps of the environment.
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
    :param mmd_threshold: epsilon; 0.05 by default (-2 for "kl"). "auto": 10% above what the divergence was at the end of
        the warm-up, for there is a floor below which the policy cannot come.
    :param mmd_estimator: "biased" as published, which reads about 0.1 for equal distributions (``train/mmd_floor``), or
        "unbiased" (a U-statistic), whose MMD^2 is compared with ``mmd_threshold ** 2``.
    :param alpha: The multiplier: "auto" to learn it, or a number of at least 0 to keep.
    :param log_alpha_max: Upper bound of log alpha.
    :param vae_kl_weight: Weight of the KL term in the VAE's loss.
    :param warmup_steps: Gradient steps during which the actor sees only the constraint, not the critics.
    :param target_q_mixture: Weight of the minimum over critics in the target, the maximum has the rest.
    :param n_target_samples: Actions per next state; the target takes the best.
    :param n_action_samples: Actions drawn when acting; the best under the first critic is taken.
    :param q_reduction: How the actor's loss reduces the critics: "min", "max" or "mean".
    :param variance_penalty: Weight of the critics' disagreement in the actor's loss.
    :param bootstrap_probability: Probability that a critic learns from a transition, drawn once for each (1: all).
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param n_steps: Steps of the return in the critics' target, as in SB3's SAC. The steps are the data's, uncorrected.
    :param precision: "fp32", or "bf16" for matrix products in bfloat16 (weights and losses stay in single precision).
    :param behavior_steps: Gradient steps after which the behaviour VAE stops learning and its samples at the dataset's
        states are drawn once, so that later steps cost much less. None trains it along with the rest, as published.
    :param behavior_cache_bytes: Room for those samples; it decides how many there are per state.
    :param cuda_graphs: On a GPU, record gradient steps as CUDA graphs, which start faster. Not yet tried on one, hence not
        the default. Without a GPU it has no effect.
    :param replay_buffer_kwargs: ``normalize_observations=True`` and ``normalize_rewards=True`` normalise with the dataset's
        statistics (see :class:`~sb3_pg_extras.buffers.OfflineReplayBuffer`); ``predict`` takes observations as they are.
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

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: BEARPolicy
    actor: Actor
    critic: ContinuousCritic
    critic_target: ContinuousCritic
    behavior_vae: BehaviorVAE

    def __init__(
        self,
        policy: str | type[BEARPolicy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None = None,
        learning_rate: float | Schedule = 1e-4,
        critic_learning_rate: float | Schedule = 3e-4,
        vae_learning_rate: float | Schedule = 3e-4,
        alpha_learning_rate: float | Schedule = 1e-3,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        divergence: Literal["mmd", "kl"] = "mmd",
        mmd_kernel: Literal["laplacian", "gaussian"] = "laplacian",
        mmd_sigma: float = 20.0,
        n_mmd_samples: int = 4,
        mmd_threshold: float | Literal["auto"] | None = None,
        mmd_estimator: Literal["biased", "unbiased"] = "biased",
        alpha: float | Literal["auto"] = "auto",
        log_alpha_max: float = 10.0,
        vae_kl_weight: float = 0.5,
        warmup_steps: int = 40_000,
        target_q_mixture: float = 0.75,
        n_target_samples: int = 10,
        n_action_samples: int = 100,
        q_reduction: Literal["min", "max", "mean"] = "min",
        variance_penalty: float = 0.0,
        bootstrap_probability: float = 1.0,
        n_collect_steps: int = 10_000,
        n_steps: int = 1,
        precision: Literal["fp32", "bf16"] = "fp32",
        behavior_steps: int | None = None,
        behavior_cache_bytes: int = 1 << 26,
        cuda_graphs: bool = False,
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
        self.mmd_threshold = DEFAULT_THRESHOLDS.get(divergence, 0.0) if mmd_threshold is None else mmd_threshold
        self.mmd_estimator = mmd_estimator
        self.alpha = alpha
        self.log_alpha_max = log_alpha_max
        self.vae_kl_weight = vae_kl_weight
        self.warmup_steps = warmup_steps
        self.target_q_mixture = target_q_mixture
        self.n_target_samples = n_target_samples
        self.n_action_samples = n_action_samples
        self.q_reduction = q_reduction
        self.variance_penalty = variance_penalty
        self.bootstrap_probability = bootstrap_probability
        self.precision = precision
        self.behavior_steps = behavior_steps
        self.behavior_cache_bytes = behavior_cache_bytes
        self.cuda_graphs = cuda_graphs
        # mmd_threshold="auto": sum and number of the divergences seen at the end of the warm-up.
        self._warmup_divergence_sum = 0.0
        self._warmup_divergence_count = 0
        self._seed_of_dataset_draws: int | None = None
        self._bootstrap_masks: th.Tensor | None = None
        self._behavior_samples: th.Tensor | None = None
        self._behavior_samples_for: tuple[int, int] | None = None
        self._recorded_steps: RecordedSteps | None = None

        if _init_setup_model:
            self._check_arguments()
            self._check_device()
        # Before the networks: reading takes memory for a moment, their optimisers for good.
        if self.dataset is not None:
            self.set_dataset(self.dataset)
        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        """One error that names the argument and its value, before any time is spent."""
        choices = {
            "divergence": ("mmd", "kl"),
            "mmd_kernel": ("laplacian", "gaussian"),
            "mmd_estimator": ("biased", "unbiased"),
            "q_reduction": ("min", "max", "mean"),
            "precision": ("fp32", "bf16"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be one of {allowed}")
        check_numbers(self, dict.fromkeys(SIZES, (1, math.inf)), whole=True)
        check_numbers(self, dict.fromkeys(AT_LEAST_0, (0, math.inf)))
        check_numbers(self, dict.fromkeys(SHARES, (0, 1)))
        check_numbers(self, {"mmd_sigma": (MIN_SIGMA, math.inf), "log_alpha_max": (-math.inf, math.inf)})
        if self.behavior_steps is not None:
            check_numbers(self, {"behavior_steps": (1, math.inf)})
        check_numbers(self, {name: (0, math.inf) for name in LEARNING_RATES if not callable(getattr(self, name))})
        n_candidates = self.policy_kwargs.get("n_action_samples", self.n_action_samples)
        n_critics = self.policy_kwargs.get("n_critics", 2)
        unbiased, auto_threshold = self.mmd_estimator == "unbiased", self.mmd_threshold == "auto"
        wrong = {
            "bootstrap_probability=0: no critic would learn anything": self.bootstrap_probability == 0,
            f'alpha={self.alpha!r}: must be "auto" or a number of at least 0': not _is_auto_or_number(self.alpha, 0.0),
            f'mmd_threshold={self.mmd_threshold!r}: must be "auto" or a number': not _is_auto_or_number(self.mmd_threshold),
            'mmd_threshold="auto" is measured in the warm-up, but warmup_steps=0': auto_threshold and self.warmup_steps == 0,
            'mmd_estimator="unbiased" estimates an MMD, but divergence="kl"': unbiased and self.divergence == "kl",
            'mmd_estimator="unbiased" needs n_mmd_samples of at least 2, not 1': unbiased and self.n_mmd_samples < 2,
            f"n_action_samples={self.n_action_samples} and policy_kwargs n_action_samples={n_candidates}: leave it out": (
                n_candidates != self.n_action_samples
            ),
            f"variance_penalty={self.variance_penalty} needs n_critics of at least 2, not {n_critics}": (
                self.variance_penalty > 0 and n_critics < 2
            ),
        }
        for message, is_wrong in wrong.items():
            if is_wrong:
                raise ValueError(message)

    def _check_device(self) -> None:
        """What a model needs to learn, but not to be loaded and to act."""
        if self.precision == "bf16" and not has_bf16(self.device):
            raise ValueError('precision="bf16": this processor has no bfloat16 arithmetic, use "fp32"')

    def _setup_model(self) -> None:
        self._check_arguments()
        self.policy_kwargs = {**self.policy_kwargs, "n_action_samples": self.n_action_samples}
        super()._setup_model()
        self.actor = self.policy.actor
        self.critic = self.policy.critic
        self.critic_target = self.policy.critic_target
        self.behavior_vae = self.policy.behavior_vae
        self._largest_matrix = max(parameter.numel() for parameter in self.policy.parameters())
        self._critic_parameters: list[th.Tensor] = list(self.critic.parameters())
        self._target_parameters: list[th.Tensor] = list(self.critic_target.parameters())
        self.batch_norm_stats = get_parameters_by_name(self.critic, ["running_"])
        self.batch_norm_stats_target = get_parameters_by_name(self.critic_target, ["running_"])
        self.log_alpha = th.log(th.ones(1, device=self.device) * (1.0 if self.alpha == "auto" else float(self.alpha)))
        self.alpha_optimizer: th.optim.Adam | None = None
        if self.alpha == "auto":
            self.log_alpha.requires_grad_(True)
            self.alpha_optimizer = th.optim.Adam([self.log_alpha], FloatSchedule(self.alpha_learning_rate)(1), fused=True)
        if self._seed_of_dataset_draws is None:
            self._seed_of_dataset_draws = int(th.randint(2**31, (1,)))
        if self.cuda_graphs and self.device.type == "cuda":
            optimizers = [self.behavior_vae.optimizer, self.critic.optimizer, self.actor.optimizer, self.alpha_optimizer]
            self._recorded_steps = RecordedSteps([o for o in optimizers if o is not None], self.generator)

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """
        Update all networks (Kumar et al. 2019, Algorithm 1).

        :param gradient_steps: Number of updates.
        :param batch_size: Transitions per update.
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        self._update_learning_rates()
        autocast = th.autocast(self.device.type, th.bfloat16, enabled=self.precision == "bf16")
        with fast_matmuls(self.device, self._largest_matrix), autocast:
            for _ in range(gradient_steps):
                indices = self.replay_buffer.sample_indices(batch_size, self.generator)
                replay_data = self.replay_buffer.get(indices, env=self._vec_normalize_env)
                inputs = (replay_data, indices, self._masks_of(indices))
                if self._recorded_steps is None or self._measures_threshold:
                    values = self._gradient_step(*inputs)
                else:
                    values = self._recorded_steps(self._kind_of_step(batch_size), self._gradient_step, *inputs)
                self._sum_up(values)
                self._n_updates += 1

    def _gradient_step(self, replay_data: Any, indices: th.Tensor, masks: th.Tensor | None) -> dict[str, th.Tensor]:
        """:return: Values for the log."""
        self._step_values = {}
        if not self.behavior_is_frozen:
            self._train_behavior_vae(replay_data)
        self._train_critics(replay_data, masks)
        divergence = self._train_actor(replay_data, indices)
        self._train_alpha(divergence)
        with th.no_grad():
            th._foreach_lerp_(self._target_parameters, self._critic_parameters, self.tau)
        # Running statistics of batch normalisation, if there are any, are copied as they are (SB3 issue 996).
        polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        return self._step_values

    def _kind_of_step(self, batch_size: int) -> tuple[Any, ...]:
        """What a recorded gradient step takes for granted."""
        looks_at_floor = self._n_updates % NOISE_FLOOR_EVERY == 0
        in_warmup = self._n_updates < self.warmup_steps
        return self.behavior_is_frozen, in_warmup, looks_at_floor, self.constraint_threshold, batch_size

    @property
    def _measures_threshold(self) -> bool:
        """Whether this is one of the warm-up's last steps, whose divergences ``mmd_threshold="auto"`` goes by."""
        in_window = self.warmup_steps - AUTO_WINDOW <= self._n_updates < self.warmup_steps
        return self.mmd_threshold == "auto" and in_window

    @property
    def behavior_is_frozen(self) -> bool:
        """:return: Whether the behaviour VAE has had its ``behavior_steps`` and does not learn any more."""
        return self.behavior_steps is not None and self._n_updates >= self.behavior_steps

    def _train_behavior_vae(self, replay_data: Any) -> None:
        noise = self._noise(len(replay_data.actions), self.behavior_vae.latent_dim)
        reconstruction, mean, log_std = self.behavior_vae(replay_data.observations, replay_data.actions, noise)
        reconstruction_loss, kl_loss = losses.vae_loss(reconstruction, replay_data.actions, mean, log_std)
        vae_loss = reconstruction_loss + self.vae_kl_weight * kl_loss
        _descend(self.behavior_vae.optimizer, vae_loss)
        self._record(reconstruction_loss=reconstruction_loss, kl_loss=kl_loss)

    def _behavior_actions(self, replay_data: Any, indices: th.Tensor) -> th.Tensor:
        """Pre-tanh actions of the behaviour, shape (B, n_mmd_samples, A), without gradient."""
        if self.behavior_is_frozen:
            cache = self._behavior_samples_of_dataset()
            if cache is not None:
                # Neighbours from a random one on, so that no sample is drawn twice.
                start = th.randint(cache.shape[1], (len(indices), 1), generator=self.generator, device=self.device)
                which = (start + th.arange(self.n_mmd_samples, device=self.device)) % cache.shape[1]
                return cache[indices.unsqueeze(1), which]
        with th.no_grad():
            noise = self._noise(len(replay_data.actions), self.n_mmd_samples, self.behavior_vae.latent_dim)
            return self.behavior_vae.raw_actions(replay_data.observations, noise)

    def _behavior_samples_of_dataset(self) -> th.Tensor | None:
        """
        What the frozen VAE draws at each state of the dataset, once: shape (N, n, A). None where ``behavior_cache_bytes``
        has no room for ``n_mmd_samples`` of them, and for a stream, whose rows have no numbers.
        """
        assert self.replay_buffer is not None
        n_rows, n_dims = self.replay_buffer.size(), self.behavior_vae.latent_dim
        n_samples = min(self.behavior_cache_bytes // (n_rows * 4 * self.replay_buffer.action_dim), MAX_CACHED_SAMPLES)
        if n_samples < self.n_mmd_samples or isinstance(self.replay_buffer, StreamReplayBuffer):
            return None
        # Another dataset, or other parameters than those that drew them.
        drawn_for = (id(self.replay_buffer), sum(parameter._version for parameter in self.behavior_vae.parameters()))
        if self._behavior_samples is None or self._behavior_samples_for != drawn_for:
            self._behavior_samples_for = drawn_for
            # The same again when training goes on after loading.
            assert self._seed_of_dataset_draws is not None
            generator = th.Generator(self.device).manual_seed(self._seed_of_dataset_draws)
            self.policy.set_training_mode(False)
            # Whole from the start: small pieces kept between large ones that go would leave the memory full of holes.
            samples = th.empty((n_rows, n_samples, self.replay_buffer.action_dim), device=self.device)
            parts = th.arange(n_rows, device=self.device).split(CACHED_AT_ONCE)
            with th.no_grad():
                for rows in tqdm(parts, "Drawing the behaviour's actions", delay=2, disable=self.verbose == 0):
                    noise = th.randn((len(rows), n_samples, n_dims), generator=generator, device=self.device)
                    observations = self.replay_buffer.get(rows, env=self._vec_normalize_env).observations
                    samples[rows] = self.behavior_vae.raw_actions(observations, noise)
            self._behavior_samples = samples
            self.policy.set_training_mode(True)
        return self._behavior_samples

    def _train_critics(self, replay_data: Any, mask: th.Tensor | None) -> None:
        with th.no_grad():
            noise = self._action_noise(replay_data, self.n_target_samples)
            next_actions = th.tanh(self.policy.raw_actions(replay_data.next_observations, noise)[0])
            next_q_values = self.policy.q_values(self.critic_target, replay_data.next_observations, next_actions)
            discounts = self.gamma if replay_data.discounts is None else replay_data.discounts
            target_q_values = losses.mixed_target_q_values(
                replay_data.rewards, replay_data.dones, next_q_values, discounts, self.target_q_mixture
            )
        actions = replay_data.actions.unsqueeze(1)
        current_q_values = self.policy.q_values(self.critic, replay_data.observations, actions).squeeze(2)
        critic_loss = losses.ensemble_critic_loss(current_q_values, target_q_values, mask)
        _descend(self.critic.optimizer, critic_loss)
        # How far the critics disagree.
        q_value_std = current_q_values.detach().std(dim=0, unbiased=False).mean()
        self._record(critic_loss=critic_loss, q_value=current_q_values.mean(), q_value_std=q_value_std)
        self._record(target_q_value=target_q_values.mean())

    def _train_actor(self, replay_data: Any, indices: th.Tensor) -> th.Tensor:
        """:return: The divergence between policy and behaviour, a scalar, detached."""
        raw_actions, mean, log_std = self.policy.raw_actions(
            replay_data.observations, self._action_noise(replay_data, self.n_mmd_samples)
        )
        behavior_actions = self._behavior_actions(replay_data, indices)
        if self.divergence == "mmd":
            kernel = (self.mmd_kernel, self.mmd_sigma)
            divergence = losses.mmd_divergence(raw_actions, behavior_actions, *kernel, self.mmd_estimator)
            if self.n_mmd_samples > 1 and self._n_updates % NOISE_FLOOR_EVERY == 0:
                unbiased = self.mmd_estimator == "unbiased"
                floor = th.zeros_like(divergence) if unbiased else losses.mmd_noise_floor(behavior_actions, *kernel)
                self._record(mmd_floor=floor)
        else:
            divergence = losses.kl_divergence(behavior_actions, mean, log_std)

        threshold = self.constraint_threshold
        actor_loss = losses.support_penalty(self.log_alpha.exp(), divergence, 0.0 if threshold is None else threshold).sum()
        if self._n_updates >= self.warmup_steps:
            policy_actions = th.tanh(raw_actions[:, :1])
            q_values = self.policy.q_values(self.critic, replay_data.observations, policy_actions).squeeze(2)
            actor_q_value = losses.reduce_q_values(q_values, self.q_reduction, self.variance_penalty).mean()
            actor_loss = actor_loss - actor_q_value
            self._record(actor_q_value=actor_q_value)
        # The critics are a means here: their own gradient is not wanted.
        learning = [parameter for parameter in self.actor.parameters() if parameter.requires_grad]
        _descend(self.actor.optimizer, actor_loss, inputs=learning)

        self._record(actor_loss=actor_loss, std=log_std.detach().exp().mean())
        self._record(**{self.divergence: self._in_units_of_threshold(divergence.detach())})
        if threshold is not None:
            self._record(mmd_threshold=self._in_units_of_threshold(th.full_like(divergence, threshold)))
        return divergence.detach()

    def _train_alpha(self, divergence: th.Tensor) -> None:
        if self._measures_threshold:
            self._warmup_divergence_sum += divergence.item()  # in these steps only: elsewhere nothing waits for the device
            self._warmup_divergence_count += 1
        threshold = self.constraint_threshold
        if self.alpha_optimizer is not None and threshold is not None:
            with th.no_grad():
                alpha_loss = losses.alpha_loss(self.log_alpha, divergence, threshold)
                # The derivative of exp is exp: the loss is its own gradient with respect to log_alpha.
                self.log_alpha.grad = alpha_loss.reshape(1)
                self.alpha_optimizer.step()
                self.log_alpha.clamp_(LOG_ALPHA_MIN, self.log_alpha_max)
            self._record(alpha_loss=alpha_loss)
        self._record(alpha=self.log_alpha.exp().mean())

    @property
    def constraint_threshold(self) -> float | None:
        """
        :return: What the divergence is compared with: ``mmd_threshold``, squared for the unbiased estimator; None while
            ``mmd_threshold="auto"`` waits for the end of the warm-up.
        """
        if self.mmd_threshold != "auto":
            assert not isinstance(self.mmd_threshold, str)
            return self.mmd_threshold**2 if self.mmd_estimator == "unbiased" else self.mmd_threshold
        if self._n_updates < self.warmup_steps or self._warmup_divergence_count == 0:
            return None
        mean = self._warmup_divergence_sum / self._warmup_divergence_count
        return mean + AUTO_MARGIN * abs(mean)

    def _in_units_of_threshold(self, divergence: th.Tensor) -> th.Tensor:
        """For the log: the unbiased MMD^2, which may be negative, as a signed square root."""
        if self.mmd_estimator == "unbiased":
            return divergence.sign() * divergence.abs().sqrt()
        return divergence

    def _noise(self, *shape: int) -> th.Tensor:
        return th.randn(shape, generator=self.generator, device=self.device)

    def _action_noise(self, replay_data: Any, n_samples: int) -> th.Tensor:
        return self._noise(len(replay_data.actions), n_samples, replay_data.actions.shape[1])

    def _masks_of(self, indices: Any) -> th.Tensor | None:
        """Which critics learn from which transitions, drawn once per dataset: shape (C, B), or None for all."""
        if self.bootstrap_probability == 1.0:
            return None
        assert self.replay_buffer is not None
        self.replay_buffer.whole_dataset()  # a stream's rows have no numbers of their own
        assert self._seed_of_dataset_draws is not None
        shape = (len(self.critic.q_networks), self.replay_buffer.size())
        if self._bootstrap_masks is None or self._bootstrap_masks.shape != shape:
            generator = th.Generator().manual_seed(self._seed_of_dataset_draws)
            self._bootstrap_masks = (th.rand(shape, generator=generator) < self.bootstrap_probability).to(self.device)
        return self._bootstrap_masks[:, indices].float()

    def _update_learning_rates(self) -> None:
        self._update_learning_rate(self.actor.optimizer)
        others = [
            (self.critic.optimizer, self.critic_learning_rate),
            (self.behavior_vae.optimizer, self.vae_learning_rate),
            (self.alpha_optimizer, self.alpha_learning_rate),
        ]
        for optimizer, learning_rate in others:
            if optimizer is not None:
                update_learning_rate(optimizer, FloatSchedule(learning_rate)(self._current_progress_remaining))

    def learn(
        self: SelfBEAR,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str = "BEAR",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBEAR:
        self._check_device()
        if self.mmd_threshold == "auto" and self._n_updates >= self.warmup_steps and self._warmup_divergence_count == 0:
            raise ValueError(
                f'mmd_threshold="auto" is measured in the warm-up, which ended after warmup_steps={self.warmup_steps} of '
                f"the {self._n_updates} updates so far: give a number"
            )
        steps = self.default_total_timesteps if total_timesteps is None else total_timesteps
        if 0 < self._n_updates + steps <= self.warmup_steps:
            warnings.warn(
                f"total_timesteps={steps} ends within the warm-up, warmup_steps={self.warmup_steps}: "
                "the actor only imitates the data. Take more steps, or a shorter warm-up"
            )
        return super().learn(steps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def to_sac(
        self,
        env: GymEnv | str | None = None,
        keep_dataset: bool = True,
        policy: str | type[SACPolicy] | None = None,
        **sac_kwargs: Any,
    ) -> SAC:
        """
        Fine-tune online: a stock SB3 ``SAC`` that starts from BEAR's actor, critics and target critics.

        ``gamma``, ``tau`` and ``batch_size`` are BEAR's, SAC's one learning rate is that of BEAR's critics; optimisers
        start anew. Where BEAR learned with ``VecNormalize``, the one around ``env`` gets its statistics.

        :param env: The environment: an id, an Env, or a VecEnv of any number; None for BEAR's own.
        :param keep_dataset: Whether BEAR's dataset is put into SAC's replay buffer. ``learning_starts`` is then 0 by
            default, and ``buffer_size`` (1,000,000 by default) is the room beside the dataset.
        :param policy: None keeps BEAR's policy class, so that SAC acts as BEAR does, by the best of its
            ``n_action_samples`` candidates. ``"MlpPolicy"`` (``"CnnPolicy"``, ``"MultiInputPolicy"``, or a class) is SB3's
            own with the same actor and critics; it acts by the actor's mean, and SB3 loads it without this package.
        :param sac_kwargs: Other arguments of ``SAC``; of ``policy_kwargs`` only those of the optimiser.
        :return: The SAC model.
        :raises ValueError: when ``env`` is missing or does not fit, when there is no dataset to keep, or for arguments that
            would change the networks.
        """
        return online.to_sac(self, env, keep_dataset, policy, **sac_kwargs)

    @classmethod
    def from_sac(cls: type[SelfBEAR], sac_model: SAC, env: GymEnv | str | None = None, **bear_kwargs: Any) -> SelfBEAR:
        """
        Learn offline from an SB3 ``SAC`` model: from its actor, critics, target critics, and its replay buffer.

        ``gamma``, ``tau``, ``batch_size`` and ``policy_kwargs`` are SAC's, its learning rate is that of BEAR's critics.
        The behaviour VAE is new, unless the model came from :meth:`to_sac`.

        :param sac_model: The model, without gSDE.
        :param env: As BEAR's; None for the model's own.
        :param bear_kwargs: Other arguments of BEAR; of ``policy_kwargs`` only those of the optimiser and of the VAE.
        :return: The BEAR model, not trained yet.
        :raises ValueError: for a model whose networks BEAR cannot take, or arguments that would change them.
        :raises DatasetError: when the replay buffer is empty, as it is after ``SAC.load``, and no ``dataset`` is passed.
        """
        return online.from_sac(cls, sac_model, env, **bear_kwargs)

    def _excluded_save_params(self) -> list[str]:
        networks = ["actor", "critic", "critic_target", "behavior_vae", "batch_norm_stats", "batch_norm_stats_target"]
        return [
            *super()._excluded_save_params(),
            *networks,
            "_bootstrap_masks",
            "_behavior_samples",
            "_recorded_steps",
            "_critic_parameters",
            "_target_parameters",
        ]

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        super().set_parameters(load_path_or_dict, exact_match, device)
        self._forget_recorded_steps()

    def set_dataset(self, dataset: DatasetSource) -> None:
        super().set_dataset(dataset)
        # A buffer may get the address, and so the id, of one that is gone.
        self._behavior_samples = None
        self._forget_recorded_steps()

    def _forget_recorded_steps(self) -> None:
        # Optimisers put their loaded state elsewhere, and another dataset has other samples of the behaviour.
        recorded_steps = getattr(self, "_recorded_steps", None)
        if recorded_steps is not None:
            recorded_steps.clear()

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts = ["policy", "actor.optimizer", "critic.optimizer", "behavior_vae.optimizer"]
        if self.alpha_optimizer is not None:
            state_dicts.append("alpha_optimizer")
        return state_dicts, ["log_alpha"]


def _descend(optimizer: th.optim.Optimizer, loss: th.Tensor, **backward_kwargs: Any) -> None:
    # As zero_grad(), without its bookkeeping.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
    loss.backward(**backward_kwargs)
    optimizer.step()
    # autocast keeps its bfloat16 copies of weights for as long as it is entered: these are not the weights any more.
    th.clear_autocast_cache()


def _is_auto_or_number(value: Any, lowest: float = -math.inf) -> bool:
    return value == "auto" if isinstance(value, str) else is_number(value, lowest)
