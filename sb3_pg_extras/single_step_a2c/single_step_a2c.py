"""SingleStepA2C: the one-step actor-critic, updated after every environment step (Sutton & Barto 2018, section 13.5)."""

import math
import warnings
from copy import deepcopy
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule, obs_as_tensor, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg_extras.common import policy_gradients
from sb3_pg_extras.common.on_policy import PolicyGradientAlgorithm, last_observation
from sb3_pg_extras.single_step_a2c.numpy_learner import NumpyLearner
from sb3_pg_extras.single_step_a2c.optimizers import EligibilityTraces, ObGD
from sb3_pg_extras.single_step_a2c.policies import StreamPolicy

SelfSingleStepA2C = TypeVar("SelfSingleStepA2C", bound="SingleStepA2C")


class Step(NamedTuple):
    """
    One step of B environments, with all that its update needs.

    ``rewards``, ``dones`` and ``terminations`` have shape (B,); ``next_obs`` are the states that the step led to, also where
    an episode ended; ``state_of_parameters`` is that of the choice of the actions.
    ``log_prob`` of the actions, ``values`` of the states and ``entropy``, of shape (B,), carry the graph of the choice; they
    are None where NumPy chose, and ``entropy`` also where it has no weight.
    """

    rewards: np.ndarray
    dones: np.ndarray
    terminations: np.ndarray
    next_obs: Any
    state_of_parameters: tuple[list[int], list[int]]
    log_prob: th.Tensor | None
    values: th.Tensor | None
    entropy: th.Tensor | None


class SingleStepA2C(PolicyGradientAlgorithm):
    """
    One-step actor-critic: after every environment step, before the next action,
    ``td_error = r + gamma V(s') (1 - terminated) - V(s)``; then the critic descends ``td_error^2`` with V(s') held fixed,
    and the actor ascends ``log pi(a|s) td_error``.

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
    :param max_grad_norm: Bound of the gradient's norm, for each optimiser separately; None for none: a single step's
        gradient is nearly always long, and clipped to 0.5 little more than the sign of its TD error is left.
    :param critic_optimizer_kwargs: Arguments of the critic's optimiser, None for the actor's (``policy_kwargs``'s
        ``optimizer_kwargs``).
    :param backend: "auto" runs small MLP policies on vectors in NumPy (``numpy_learner.py``), which takes the same actions
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

    _optional_rates = ("critic_learning_rate",)

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        **PolicyGradientAlgorithm.policy_aliases,
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
        max_grad_norm: float | None = None,
        critic_optimizer_kwargs: dict[str, Any] | None = None,
        backend: Literal["auto", "torch"] = "auto",
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
            backend=backend,
            learning_rate=learning_rate,
            n_steps=1,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        self.critic_learning_rate = critic_learning_rate
        self.critic_optimizer_kwargs = critic_optimizer_kwargs
        self.trace_decay = trace_decay
        self._learner: NumpyLearner | None = None
        # From collect_rollouts() to train(), between which SB3's learn() passes nothing; and the last update's, for the log.
        self._step: Step | None = None
        self._td_errors: np.ndarray | None = None

        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_numbers({"trace_decay": (0, 1)})
        if self.critic_learning_rate is None and self.critic_optimizer_kwargs is not None:
            raise ValueError(
                f"critic_optimizer_kwargs={self.critic_optimizer_kwargs!r} and critic_learning_rate=None: the critic has no "
                "optimiser of its own; give critic_learning_rate"
            )

    def _setup_model(self) -> None:
        self._check_arguments()
        given = self.policy_kwargs
        if self.critic_learning_rate is not None:
            self.policy_kwargs = {"share_features_extractor": False, **given}
        super()._setup_model()
        self.policy_kwargs = given
        rate = self.critic_learning_rate
        self.critic_lr_schedule = schedule = None if rate is None else FloatSchedule(rate)
        self.critic_optimizer = None if schedule is None else self._split_optimizer(schedule(1))
        params = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        self.traces = EligibilityTraces(params, self.n_envs) if self.trace_decay > 0 else None
        if isinstance(self.optimizers[0], ObGD) and self.env is not None and self.get_vec_normalize_env() is None:
            warnings.warn("ObGD hardly learns without VecNormalize around the environment: see make_stream_env")
        self._params = list(self.policy.parameters())

    def _split_optimizer(self, critic_learning_rate: float) -> th.optim.Optimizer:
        """:return: An optimiser of the critic's parameters; the policy's keeps the actor's."""
        policy = self.policy
        if policy.share_features_extractor and any(True for _ in policy.features_extractor.parameters()):
            raise ValueError(
                "share_features_extractor=True and critic_learning_rate: actor and critic cannot share layers and have an "
                "optimiser each; drop the one from policy_kwargs or set critic_learning_rate=None"
            )
        modules = (policy.mlp_extractor.value_net, policy.value_net, policy.vf_features_extractor)
        critic = [p for module in modules for p in module.parameters()]
        actor = [p for p in policy.parameters() if all(p is not other for other in critic)]
        make: Any = policy.optimizer_class
        policy.optimizer = make(actor, lr=self.lr_schedule(1), **policy.optimizer_kwargs)
        kwargs = self.critic_optimizer_kwargs or policy.optimizer_kwargs
        try:
            return make(critic, lr=critic_learning_rate, **kwargs)
        except TypeError as error:
            hint = "; STREAM_PRESET is for StreamPolicy" if "kappa" in kwargs else ""
            raise ValueError(f"critic_optimizer_kwargs={kwargs}: {error}{hint}") from error

    @property
    def optimizers(self) -> list[th.optim.Optimizer]:
        """:return: The actor's optimiser and the critic's, or the one for both."""
        return [self.policy.optimizer] if self.critic_optimizer is None else [self.policy.optimizer, self.critic_optimizer]

    def _make_learner(self) -> NumpyLearner | None:
        """:return: The NumPy backend's learner; None for PyTorch."""
        applies = self._uses_numpy() and NumpyLearner.applies_to(self.policy, self.optimizers)
        traces = None if self.traces is None else self.traces.traces
        return NumpyLearner(self.policy, self.optimizers, traces) if applies else None

    def _state_of_parameters(self) -> tuple[list[int], list[int]]:
        """:return: What differs once PyTorch has changed or replaced a parameter; NumPy's changes do not count."""
        return [p._version for p in self._params], [p.data_ptr() for p in self._params]

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Take one step in each environment and keep the graph that chose the actions.

        :param env: The environments.
        :param callback: Called after the step.
        :param rollout_buffer: Not filled: a step is learnt from at once.
        :param n_rollout_steps: Unused, 1.
        :return: False if the callback stopped the training.
        """
        callback.on_rollout_start()
        if self.use_sde and self.sde_sample_freq > 0 and self._n_updates % self.sde_sample_freq == 0:
            self.policy.reset_noise(env.num_envs)
        if self._learner is not None and not self._learner.optimizers.stand_for(self.optimizers):
            # A callback has loaded or replaced an optimiser.
            self._learner = self._make_learner()
        state = self._state_of_parameters()
        if self._learner is None:
            actions, log_prob, values, entropy = self._draw(self._act)
        else:
            actions, log_prob, values, entropy = self._draw(self._learner.act), None, None, None
        new_obs, rewards, dones, infos = env.step(self._environment_actions(actions))
        # DummyVecEnv rounds rewards, SubprocVecEnv does not.
        rewards = rewards.astype(np.float32, copy=False)
        self.num_timesteps += env.num_envs
        self._last_obs = new_obs  # type: ignore[assignment]
        self._last_episode_starts = dones
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        self._update_info_buffer(infos, dones)
        next_obs, terminations = successors(new_obs, dones, infos)
        self._step = Step(rewards, dones, terminations, next_obs, state, log_prob, values, entropy)
        callback.on_rollout_end()
        return True

    def _act(self, obs: Any) -> tuple[np.ndarray, th.Tensor, th.Tensor, th.Tensor | None]:
        """:return: Actions as the policy draws them, and ``log_prob``, ``values`` and ``entropy`` as in :class:`Step`."""
        policy = self.policy
        features = policy.extract_features(obs_as_tensor(obs, self.device))
        pi_features, vf_features = (features, features) if policy.share_features_extractor else features
        distribution = policy._get_action_dist_from_latent(policy.mlp_extractor.forward_actor(pi_features))  # type: ignore[arg-type]
        values = policy.value_net(policy.mlp_extractor.forward_critic(vf_features)).flatten()  # type: ignore[arg-type]
        # Detached: the gradient of log pi through a reparametrised sample would cancel the score.
        actions = distribution.get_actions().detach()
        log_prob, entropy = distribution.log_prob(actions), None
        if self.ent_coef != 0.0:
            # Estimate the entropy if there is no closed form.
            entropy = distribution.entropy()
            entropy = -log_prob if entropy is None else entropy
        return actions.cpu().numpy().reshape(-1, *self.action_space.shape), log_prob, values, entropy  # type: ignore[misc]

    def train(self) -> None:
        """One update of actor and critic from the step just taken."""
        step = self._step
        assert step is not None
        frozen = self._learner is not None and not all(p.requires_grad for p in self._params)
        if frozen or step.state_of_parameters != self._state_of_parameters():
            # A callback has changed the parameters that chose this action, so it cannot be learnt from.
            self._learner = self._make_learner()
            if self.traces is not None:
                self.traces.reset(step.dones)
            if self.use_sde:
                self.policy.reset_noise(self.n_envs)
            return
        update_learning_rate(self.policy.optimizer, self.lr_schedule(self._current_progress_remaining))
        if self.critic_optimizer is not None and self.critic_lr_schedule is not None:
            update_learning_rate(self.critic_optimizer, self.critic_lr_schedule(self._current_progress_remaining))
        if self._learner is None:
            self._td_errors = self._update(step)
        else:
            self._td_errors = self._learner.td_errors(step.rewards, step.terminations, step.next_obs, self.gamma)
            self._check_td_errors(self._td_errors, step)
            # Read for every update: a callback may anneal them.
            settings = (self.gamma * self.trace_decay, self.ent_coef, self.vf_coef, self.max_grad_norm)
            self._learner.update(self._td_errors, step.dones, *settings)
        self._n_updates += 1
        if self.use_sde and self.sde_sample_freq <= 0 and step.dones.any():
            self.policy.reset_noise(self.n_envs)

    def _update(self, step: Step) -> np.ndarray:
        """Descend the squared TD error and ascend the score times the TD error. :return: The TD errors, shape (B,)."""
        log_prob, values, entropy = step.log_prob, step.values, step.entropy
        assert log_prob is not None and values is not None
        with th.no_grad():
            next_values = self.policy.predict_values(obs_as_tensor(step.next_obs, self.device)).flatten()
        rewards = th.as_tensor(step.rewards, dtype=th.float32, device=self.device)
        terminations = th.as_tensor(step.terminations, device=self.device)
        td_error = policy_gradients.td_errors(rewards, terminations, values, next_values, self.gamma)
        td_errors = td_error.detach().cpu().numpy()
        self._check_td_errors(td_errors, step)

        if self.traces is None:
            loss = policy_gradients.policy_gradient_loss(log_prob, td_error) + self.vf_coef * td_error.square().mean()
            if entropy is not None:
                loss = loss - self.ent_coef * entropy.mean()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
            loss.backward()
        else:
            # Twice vf_coef, for the square: td_error times this objective's gradient is that of the loss above.
            objectives = log_prob + 2.0 * self.vf_coef * values
            if entropy is not None:
                objectives = objectives + self.ent_coef * td_error.detach().sign() * entropy
            self.traces.accumulate(objectives, self.gamma * self.trace_decay)
            self.traces.write_gradients(td_error.detach())
            self.traces.reset(step.dones)

        for optimizer in self.optimizers:
            if self.max_grad_norm is not None:
                params = [p for group in optimizer.param_groups for p in group["params"]]
                th.nn.utils.clip_grad_norm_(params, self.max_grad_norm)
            if isinstance(optimizer, ObGD):
                optimizer.step(td_error=float(np.abs(td_errors).mean()))
            else:
                optimizer.step()
        return td_errors

    def _check_td_errors(self, td_errors: np.ndarray, step: Step) -> None:
        # The sum is not finite if any of them is not, and is faster to check.
        if not math.isfinite(sum(td_errors.tolist())):
            self._check_finite(rewards=step.rewards, observations=step.next_obs, td_error=td_errors)

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the log, with the last update's figures.

        :param iteration: Number of steps in this call of learn().
        """
        if self._td_errors is not None:
            self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
            self.logger.record("train/td_error", float(self._td_errors.mean()))
            self.logger.record("train/value_loss", float(np.square(self._td_errors).mean()))
            self.logger.record("train/learning_rate", self.lr_schedule(self._current_progress_remaining))
            if self.critic_lr_schedule is not None:
                self.logger.record("train/critic_learning_rate", self.critic_lr_schedule(self._current_progress_remaining))
            with th.no_grad():
                entropy = self.policy.get_distribution(obs_as_tensor(self._last_obs, self.device)).entropy()  # type: ignore[arg-type]
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
        """
        Learn from every step, as SB3's algorithms do.

        :param total_timesteps: Environment steps to take, over all environments.
        :param callback: Called after every step, before its update.
        :param log_interval: Updates between two logs, None for no log.
        :param tb_log_name: Name of the run in the TensorBoard log.
        :param reset_num_timesteps: Whether to count from 0, reset the environments and clear the traces.
        :param progress_bar: Whether to show one.
        :return: This model.
        :raises ValueError: for rewards, observations, TD errors, actions or weights that are not finite.
        """
        self._check_learn(total_timesteps, log_interval)
        if self.traces is not None and (reset_num_timesteps or self._last_obs is None):
            self.traces.reset(np.ones(self.n_envs, dtype=bool))
        self._learner = self._make_learner()
        if self.verbose >= 1 and self._learner is not None:
            print("Using the NumPy backend")
        # The same forward pass acts and learns, so it runs in evaluation mode.
        self.policy.set_training_mode(False)
        if self.use_sde:
            self.policy.reset_noise(self.n_envs)
        try:
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        finally:
            # It cannot be pickled.
            self._learner = None
        self._check_weights()
        return self

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "critic_lr_schedule", "_learner", "_params", "_step", "_td_errors"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        own = [name for name in ("critic_optimizer", "traces") if getattr(self, name) is not None]
        return [*state_dicts, *own], tensors

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: th.device | str = "auto") -> None:
        """
        As SB3's. Traces stay as they are where another ``trace_decay`` saved none, and are left out where this one has none.

        :param load_path_or_dict: A saved model, or parameters by name as :meth:`get_parameters` returns them.
        :param exact_match: Whether no other name may be missing.
        :param device: The device to load to.
        :raises ValueError: when one of the two models has an optimiser of its critic, and the other has not.
        """
        if isinstance(load_path_or_dict, dict) and exact_match and "policy.optimizer" in load_path_or_dict:
            if ("critic_optimizer" in load_path_or_dict) != (self.critic_optimizer is not None):
                has = "has an" if self.critic_optimizer is None else "has no"
                raise ValueError(
                    f"critic_learning_rate={self.critic_learning_rate!r}: the saved model {has} optimiser of its critic. "
                    "Leave the argument as it was, or begin a new model"
                )
            load_path_or_dict = dict(load_path_or_dict)
            saved = load_path_or_dict.pop("traces", None)
            if self.traces is not None:
                load_path_or_dict["traces"] = saved or self.traces.state_dict()
        super().set_parameters(load_path_or_dict, exact_match, device)


def successors(new_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> tuple[Any, np.ndarray]:
    """
    The states that the steps led to; where an episode ended, the VecEnv returns the first state of the next one instead.

    :param new_obs: What the step returned, (n_envs, ...) or a dict of such arrays.
    :param dones: shape (n_envs,).
    :param infos: One dict per environment.
    :return: The observations, the last one where a time limit cut an episode; and 1 where it terminated, shape (n_envs,).
    """
    terminations = dones.astype(np.float32)
    # On most steps no episode ends, and this is the fastest check.
    ended = np.flatnonzero(dones) if np.count_nonzero(dones) else ()
    cut = {i: last for i in ended if (last := last_observation(infos[i])) is not None}
    new_obs = deepcopy(new_obs) if cut else new_obs
    for i, last in cut.items():
        terminations[i] = 0.0
        if isinstance(last, dict):
            for key, value in last.items():
                new_obs[key][i] = value
        else:
            new_obs[i] = last
    return new_obs, terminations
