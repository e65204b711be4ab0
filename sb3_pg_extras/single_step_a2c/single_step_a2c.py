"""SingleStepA2C: the one-step actor-critic, updated after every environment step (Sutton & Barto 2018, section 13.5)."""

import math
from copy import deepcopy
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, obs_as_tensor, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg_extras.common import policy_gradients
from sb3_pg_extras.common.arguments import check_numbers, coefficient_bounds
from sb3_pg_extras.common.policies import environment_actions
from sb3_pg_extras.fast.numpy_actor import applies_to
from sb3_pg_extras.single_step_a2c.numpy_learner import NumpyLearner, NumpyOptimizer
from sb3_pg_extras.single_step_a2c.optimizers import EligibilityTraces, ObGD
from sb3_pg_extras.single_step_a2c.policies import StreamPolicy

SelfSingleStepA2C = TypeVar("SelfSingleStepA2C", bound="SingleStepA2C")

# Stream AC(lambda) (Elsayed, Vasan and Mahmood 2024): SingleStepA2C("StreamPolicy", env, **STREAM_PRESET), on an environment
# whose observations and rewards VecNormalize normalises.
STREAM_PRESET: dict[str, Any] = {
    "learning_rate": 1.0,
    "critic_learning_rate": 1.0,
    "critic_optimizer_kwargs": {"kappa": 2.0},
    "gamma": 0.99,
    "trace_decay": 0.8,
    "ent_coef": 0.01,
    "max_grad_norm": None,
}


# The step just taken, and what is built when learn() begins.
TRANSIENT = ("_transition", "_log_prob", "_entropy", "_values", "_td_errors", "_learner", "_params", "_versions")


class SingleStepA2C(OnPolicyAlgorithm):
    """
    One-step actor-critic: after every environment step, before the next action,
    ``td_error = r + gamma V(s') (1 - terminated) - V(s)``, then one descent of ``td_error^2`` with V(s') held fixed by the
    critic and one ascent of ``log pi(a|s) td_error`` by the actor.

    The graph that chose the action is the one that is differentiated. With several environments the gradients of their
    single steps are averaged.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, StreamPolicy, or a class).
    :param env: The environment: an id, an Env or a VecEnv.
    :param learning_rate: Learning rate of the actor, a number or a function of the remaining progress (from 1 to 0).
    :param critic_learning_rate: Likewise, of the critic, which then has an optimiser of its own and shares no feature
        extractor with the actor. None for one optimiser for both, as in SB3's A2C.
    :param gamma: Discount factor.
    :param trace_decay: lambda of the eligibility traces of actor and critic; 0 for none. With traces, the entropy's gradient
        enters the actor's with the sign of the TD error (Stream AC, Elsayed, Vasan and Mahmood 2024).
    :param ent_coef: Weight of the entropy in the loss.
    :param vf_coef: Weight of the squared TD error; at 0.5 its gradient is the textbook's ``-td_error grad V(s)``.
    :param max_grad_norm: Bound of the gradient's norm, for each optimiser by itself; None for none.
    :param critic_optimizer_kwargs: Arguments of the critic's optimiser, None for the actor's (``policy_kwargs``'s
        ``optimizer_kwargs``).
    :param kernel: "auto" runs small MLP policies on vectors in NumPy (see ``numpy_kernel.py``), which takes the same actions
        and makes the same updates many times faster; "torch" never does.
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE).
    :param sde_sample_freq: Steps between two noise matrices of gSDE, -1 for a new one when an episode ends.
    :param stats_window_size: Episodes that ``rollout/ep_rew_mean`` averages over.
    :param tensorboard_log: Folder of the TensorBoard log, or None.
    :param policy_kwargs: Additional arguments of the policy.
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param _init_setup_model: Whether to build the networks at once.
    :raises ValueError: for arguments that are out of range or exclude each other; in training, for a TD error that is not
        finite.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
        "StreamPolicy": StreamPolicy,
    }

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        critic_learning_rate: float | Schedule | None = 1e-3,
        gamma: float = 0.99,
        trace_decay: float = 0.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        critic_optimizer_kwargs: dict[str, Any] | None = None,
        kernel: Literal["auto", "torch"] = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=1,
            gamma=gamma,
            gae_lambda=0.0,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,  # type: ignore[arg-type]
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
            _init_setup_model=False,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
        )
        self.critic_learning_rate = critic_learning_rate
        self.critic_optimizer_kwargs = critic_optimizer_kwargs
        self.trace_decay = trace_decay
        self.kernel = kernel
        self._learner: NumpyLearner | None = None
        self._td_errors: np.ndarray | None = None

        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        self._check_arguments()
        if self.critic_learning_rate is not None:
            self.policy_kwargs = {"share_features_extractor": False, **self.policy_kwargs}
        super()._setup_model()
        if self.critic_learning_rate is not None:
            self._split_optimizer(FloatSchedule(self.critic_learning_rate)(1))
        params = [p for optimizer, _ in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        self.traces = EligibilityTraces(params, self.n_envs) if self.trace_decay > 0 else None

    def _check_arguments(self) -> None:
        if self.kernel not in ("auto", "torch"):
            raise ValueError(f"kernel={self.kernel!r}: must be 'auto' or 'torch'")
        check_numbers(self, {"gamma": (0, 1), "trace_decay": (0, 1), **coefficient_bounds(self)})
        if not (self.critic_learning_rate is None or callable(self.critic_learning_rate)):
            # The RL Zoo makes a schedule of a text for learning_rate only.
            check_numbers(self, {"critic_learning_rate": (0, math.inf)})
        if self.critic_learning_rate is None and self.critic_optimizer_kwargs is not None:
            raise ValueError(
                f"critic_optimizer_kwargs={self.critic_optimizer_kwargs!r} and critic_learning_rate=None: one optimiser for "
                "both takes no arguments for the critic alone; give critic_learning_rate"
            )

    def _split_optimizer(self, critic_learning_rate: float) -> None:
        """Give the critic an optimiser of its own, and leave the policy's the actor's parameters."""
        policy = self.policy
        if policy.share_features_extractor and any(True for _ in policy.features_extractor.parameters()):
            raise ValueError(
                "share_features_extractor=True and critic_learning_rate: actor and critic cannot share layers and have an "
                "optimiser each; drop the one from policy_kwargs or set critic_learning_rate=None"
            )
        critic = [policy.mlp_extractor.value_net, policy.value_net]
        if not policy.share_features_extractor:
            critic.append(policy.vf_features_extractor)
        critic_params = [p for module in critic for p in module.parameters()]
        theirs = {id(p) for p in critic_params}
        actor_params = [p for p in policy.parameters() if id(p) not in theirs]
        make: Any = policy.optimizer_class
        kwargs = policy.optimizer_kwargs
        policy.optimizer = make(actor_params, lr=self.lr_schedule(1), **kwargs)
        self.critic_optimizer = make(critic_params, lr=critic_learning_rate, **(self.critic_optimizer_kwargs or kwargs))

    @property
    def optimizers(self) -> list[tuple[th.optim.Optimizer, Schedule]]:
        """:return: Each optimiser and its learning rate schedule: the actor's and the critic's, or the one for both."""
        if self.critic_learning_rate is None:
            return [(self.policy.optimizer, self.lr_schedule)]
        return [
            (self.policy.optimizer, self.lr_schedule),
            (self.critic_optimizer, FloatSchedule(self.critic_learning_rate)),
        ]

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.traces is not None and (reset_num_timesteps or self._last_obs is None):
            self.traces.reset(np.ones(self.n_envs, dtype=bool))
        self._learner = self._make_learner()
        # PyTorch counts their changes, but not the NumPy kernel's own.
        self._params = list(self.policy.parameters())
        if self.verbose >= 1 and self._learner is not None:
            print("Using the NumPy kernel")
        # One forward pass acts and learns, so it runs in the mode that acts.
        self.policy.set_training_mode(False)
        if self.use_sde:
            self.policy.reset_noise(self.n_envs)
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def _make_learner(self) -> NumpyLearner | None:
        """:return: The NumPy kernel if it is wanted and applies."""
        optimizers = [optimizer for optimizer, _ in self.optimizers]
        params = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        if (
            self.kernel != "auto"
            or not applies_to(self.policy)
            or params != set(self.policy.parameters())
            or not all(NumpyOptimizer.applies_to(optimizer) for optimizer in optimizers)
        ):
            return None
        traces = None if self.traces is None else self.traces.traces
        return NumpyLearner(self.policy, optimizers, traces)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Take one step in each environment and keep the graph that chose the actions.

        :param env: The environments.
        :param callback: Called after the step.
        :param rollout_buffer: Unused: there is nothing to store.
        :param n_rollout_steps: Unused, 1.
        :return: False if the callback stopped the training.
        """
        assert self._last_obs is not None
        callback.on_rollout_start()
        if self.use_sde and self.sde_sample_freq > 0 and self._n_updates % self.sde_sample_freq == 0:
            self.policy.reset_noise(env.num_envs)
        if self._learner is not None and not self._learner.steps_for([optimizer for optimizer, _ in self.optimizers]):
            # A callback has loaded or replaced an optimiser.
            self._learner = self._make_learner()
        self._versions = [p._version for p in self._params]
        obs = self._last_obs
        actions = self._act(obs) if self._learner is None else self._learner.act(obs)
        new_obs, rewards, dones, infos = env.step(environment_actions(self.policy, actions))
        self.num_timesteps += env.num_envs
        self._last_obs = new_obs  # type: ignore[assignment]
        self._last_episode_starts = dones
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        self._update_info_buffer(infos, dones)
        self._transition = (rewards, new_obs, dones, infos)
        callback.on_rollout_end()
        return True

    def _act(self, obs: Any) -> np.ndarray:
        """:return: Actions, whose graph is kept, before any clipping."""
        distribution, self._values = self._distribution_and_values(obs_as_tensor(obs, self.device))
        # Detached: the gradient of log pi through a reparametrised sample would cancel the score.
        actions = distribution.get_actions().detach()
        self._log_prob = distribution.log_prob(actions)
        self._entropy = None
        if self.ent_coef != 0.0:
            # Without a closed form of the entropy, estimate it.
            entropy = distribution.entropy()
            self._entropy = -self._log_prob if entropy is None else entropy
        return actions.cpu().numpy().reshape(-1, *self.action_space.shape)  # type: ignore[misc]

    def _distribution_and_values(self, obs: Any) -> tuple[Distribution, th.Tensor]:
        """:return: What ``policy.forward`` computes, with the distribution itself, and the values of shape (n_envs,)."""
        policy = self.policy
        features = policy.extract_features(obs)
        pi_features, vf_features = (features, features) if policy.share_features_extractor else features
        distribution = policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(pi_features))  # type: ignore[arg-type]
        return distribution, policy.value_net(policy.mlp_extractor.forward_critic(vf_features)).flatten()  # type: ignore[arg-type]

    def train(self) -> None:
        """One update of actor and critic from the step just taken."""
        rewards, new_obs, dones, infos = self._transition
        if self._versions != [p._version for p in self._params]:
            # What chose this action is gone, by set_parameters or otherwise, and with it what could be learnt from it.
            if self.traces is not None:
                self.traces.reset(dones)
            if self.use_sde:
                self.policy.reset_noise(self.n_envs)
            return
        next_obs, terminations = successors(new_obs, dones, infos)
        for optimizer, schedule in self.optimizers:
            update_learning_rate(optimizer, schedule(self._current_progress_remaining))
        if self._learner is None:
            td_errors = self._update(rewards, terminations, next_obs, dones)
        else:
            td_errors = self._learner.td_errors(rewards, terminations, next_obs, self.gamma)
            self._check_finite(td_errors, rewards)
            # Read anew for every update: a callback may anneal them.
            settings = (self.gamma * self.trace_decay, self.ent_coef, self.vf_coef, self.max_grad_norm)
            self._learner.update(td_errors, dones, *settings)
        self._n_updates += 1
        self._td_errors = td_errors
        if self.use_sde and self.sde_sample_freq <= 0 and dones.any():
            self.policy.reset_noise(self.n_envs)

    def _update(self, rewards: np.ndarray, terminations: np.ndarray, next_obs: Any, dones: np.ndarray) -> np.ndarray:
        """:return: The TD errors, shape (n_envs,)."""
        with th.no_grad():
            next_values = self.policy.predict_values(obs_as_tensor(next_obs, self.device)).flatten()
        td_error = policy_gradients.td_errors(
            th.as_tensor(rewards, dtype=th.float32, device=self.device),
            th.as_tensor(terminations, device=self.device),
            self._values, next_values, self.gamma,
        )  # fmt: skip
        td_errors = td_error.detach().cpu().numpy()
        self._check_finite(td_errors, rewards)

        if self.traces is None:
            loss = policy_gradients.policy_gradient_loss(self._log_prob, td_error) + self.vf_coef * td_error.square().mean()
            if self._entropy is not None:
                loss = loss - self.ent_coef * self._entropy.mean()
            for optimizer, _ in self.optimizers:
                optimizer.zero_grad()
            loss.backward()
        else:
            # Twice vf_coef, for the square: td_error times this objective's gradient is that of the loss above.
            objectives = self._log_prob + 2.0 * self.vf_coef * self._values
            if self._entropy is not None:
                objectives = objectives + self.ent_coef * td_error.detach().sign() * self._entropy
            self.traces.accumulate(objectives, self.gamma * self.trace_decay)
            self.traces.write_gradients(td_error.detach())
            self.traces.reset(dones)

        for optimizer, _ in self.optimizers:
            if self.max_grad_norm is not None:
                params = [p for group in optimizer.param_groups for p in group["params"]]
                th.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
            if isinstance(optimizer, ObGD):
                optimizer.step(td_error=float(np.abs(td_errors).mean()))
            else:
                optimizer.step()
        return td_errors

    def _check_finite(self, td_errors: np.ndarray, rewards: np.ndarray) -> None:
        # The sum is not finite if one of them is not, and is cheaper to ask.
        if not math.isfinite(sum(td_errors.tolist())):
            raise ValueError(
                f"td_error={td_errors} after {self.num_timesteps} steps, with rewards={rewards}: if the rewards are finite, "
                f"training diverged; lower learning_rate={self.learning_rate} or "
                f"critic_learning_rate={self.critic_learning_rate}, or normalise with VecNormalize"
            )

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the log, with the last update's figures.

        :param iteration: Number of steps in this call of learn().
        """
        if self._td_errors is not None:
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("train/td_error", float(self._td_errors.mean()))
            self.logger.record("train/value_loss", float(np.square(self._td_errors).mean()))
            for name, (_, schedule) in zip(("", "critic_"), self.optimizers, strict=False):
                self.logger.record(f"train/{name}learning_rate", schedule(self._current_progress_remaining))
            with th.no_grad():
                distribution = self.policy.get_distribution(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
                entropy = distribution.entropy()
            if entropy is not None:
                self.logger.record("train/entropy_loss", -entropy.mean().item())
            if getattr(self.policy, "log_std", None) is not None:
                self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        super().dump_logs(iteration)

    def learn(
        self: SelfSingleStepA2C,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1000,
        tb_log_name: str = "SingleStepA2C",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfSingleStepA2C:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *TRANSIENT]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        if self.critic_learning_rate is not None:
            state_dicts.append("critic_optimizer")
        if self.traces is not None:
            state_dicts.append("traces")
        return state_dicts, tensors


def successors(new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> tuple[Any, np.ndarray]:
    """
    The states that the steps led to: a VecEnv resets an environment that is done, and gives the state before in its info.

    :param new_obs: What the step returned, (n_envs, ...) or a dict of such arrays.
    :param dones: shape (n_envs,).
    :param infos: One dict per environment.
    :return: The observations, where an episode was cut off its last; and 1 where an episode terminated, shape (n_envs,).
    """
    terminations = dones.astype(np.float32)
    if not np.count_nonzero(dones):
        return new_obs, terminations
    truncated = [
        i
        for i in np.flatnonzero(dones)
        if infos[i].get("TimeLimit.truncated") and infos[i].get("terminal_observation") is not None
    ]
    if truncated:
        terminations[truncated] = 0.0
        new_obs = deepcopy(new_obs)
        for i in truncated:
            last = infos[i]["terminal_observation"]
            for array, value in [(new_obs[key], last[key]) for key in last] if isinstance(last, dict) else [(new_obs, last)]:
                array[i] = value
    return new_obs, terminations
