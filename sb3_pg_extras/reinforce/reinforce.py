"""REINFORCE: the Monte-Carlo policy gradient on whole episodes (Williams 1992; Sutton & Barto 2018, chapter 13)."""

import math
import warnings
from typing import Any, Literal, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from sb3_pg_extras.common import policy_gradients
from sb3_pg_extras.common.on_policy import PolicyGradientAlgorithm, last_observation
from sb3_pg_extras.fast.numpy_actor import NumpyActor
from sb3_pg_extras.reinforce.buffers import EpisodeRolloutBuffer

SelfREINFORCE = TypeVar("SelfREINFORCE", bound="REINFORCE")


class REINFORCE(PolicyGradientAlgorithm):
    """
    REINFORCE: ``theta += learning_rate * mean(grad log pi(a_t|s_t) psi_t)`` over the steps of whole episodes.

    With several environments each update starts episodes until both quotas are met, lets every one of them finish, and uses
    them all: taking the first episodes that finish would favour short ones.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment: an id, an Env or a VecEnv.
    :param learning_rate: Learning rate, a number or a function of the remaining progress (from 1 to 0).
    :param n_episodes: Episodes per update, at least.
    :param n_steps: Environment steps per update, at least; 0 for no such minimum.
    :param gamma: Discount factor.
    :param credit: "reward_to_go" weights each action by the return that follows it, "episode" by the whole episode's return.
    :param discount_weighting: Whether to multiply the weight of step t by ``gamma^t`` (Sutton & Barto 13.3), which the
        gradient of the discounted return requires and hardly any implementation does. Not with ``credit="episode"``, whose
        returns are discounted from the first step already.
    :param normalize_advantage: Whether to standardise the weights over the batch.
    :param baseline: None for none; "mean", the batch's mean return; "value", the policy's value head, trained by mean
        squared error, which also bootstraps at time limits.
    :param ent_coef: Weight of the entropy in the loss.
    :param vf_coef: Weight of the value head's loss, with ``baseline="value"``.
    :param max_grad_norm: Bound of the gradient's norm, None for none.
    :param backend: "auto" draws the actions of small MLP policies on vectors in NumPy (``fast/numpy_actor.py``): the same
        actions, several times faster. "torch" never does.
    :param use_sde: Whether to use generalized State Dependent Exploration (gSDE).
    :param sde_sample_freq: Steps between two noise matrices of gSDE, -1 for one per update.
    :param rollout_buffer_class: Class of the rollout buffer, a subclass of ``EpisodeRolloutBuffer``.
    :param rollout_buffer_kwargs: Additional arguments of the rollout buffer.
    :param stats_window_size: Episodes that ``rollout/ep_rew_mean`` averages over.
    :param tensorboard_log: Folder of the TensorBoard log, or None.
    :param policy_kwargs: Additional arguments of the policy.
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param _init_setup_model: Whether to build the networks at once.
    :raises ValueError: for arguments that are out of range.
    """

    rollout_buffer: EpisodeRolloutBuffer

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-3,
        n_episodes: int = 8,
        n_steps: int = 0,
        gamma: float = 0.99,
        credit: Literal["reward_to_go", "episode"] = "reward_to_go",
        discount_weighting: bool = False,
        normalize_advantage: bool = True,
        baseline: Literal["mean", "value"] | None = None,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        backend: Literal["auto", "torch"] = "auto",
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[EpisodeRolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
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
            n_steps=n_steps,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class or EpisodeRolloutBuffer,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            device=device,
            seed=seed,
        )
        self.n_episodes = n_episodes
        self.credit = credit
        self.discount_weighting = discount_weighting
        self.normalize_advantage = normalize_advantage
        self.baseline = baseline
        self._n_started = 0
        self._n_finished = 0

        if _init_setup_model:
            self._setup_model()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_choices({"credit": ("reward_to_go", "episode"), "baseline": (None, "mean", "value")})
        self._check_numbers({"n_episodes": (1, math.inf), "n_steps": (0, math.inf)}, integer=True)
        if self.credit == "episode" and self.discount_weighting:
            raise ValueError(
                'discount_weighting=True with credit="episode" is not a policy gradient: the return of an episode is '
                "discounted from its first step already. Leave one of them out"
            )
        if not issubclass(self.rollout_buffer_class, EpisodeRolloutBuffer):  # type: ignore[arg-type]
            raise ValueError(f"rollout_buffer_class={self.rollout_buffer_class}: must be an EpisodeRolloutBuffer")

    def _setup_model(self) -> None:
        self._check_arguments()
        held: EpisodeRolloutBuffer | None = getattr(self, "rollout_buffer", None)
        super()._setup_model()
        if held is not None and held.n_envs == self.n_envs:
            # A loaded model continues the batch that it was saved in.
            self.rollout_buffer.resume(held)

    def _excluded_save_params(self) -> list[str]:
        held = {"rollout_buffer"} if self.rollout_buffer.active.any() else set()
        return list(set(super()._excluded_save_params()) - held)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """
        Play whole episodes until ``n_episodes`` have been started, ``n_rollout_steps`` steps taken, and all started episodes
        have ended.

        :param env: The environments.
        :param callback: Called after each step.
        :param rollout_buffer: Buffer to fill.
        :param n_rollout_steps: Steps of the batch, at least.
        :return: True if the batch is complete; False if the callback or the end of the budget stopped it: it is then kept.
        """
        assert isinstance(rollout_buffer, EpisodeRolloutBuffer)
        self.policy.set_training_mode(False)
        if not rollout_buffer.active.any():
            self._begin_batch(env, rollout_buffer, n_rollout_steps)
        act = NumpyActor(self.policy) if self._uses_numpy() else self._act
        callback.on_rollout_start()

        while np.count_nonzero(rollout_buffer.active):
            if self.num_timesteps >= self._total_timesteps:
                return False
            if self.use_sde and self.sde_sample_freq > 0 and rollout_buffer.size() % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            actions = self._draw(act)
            new_obs, rewards, dones, infos = env.step(self._environment_actions(actions))
            self.num_timesteps += env.num_envs

            rollout_buffer.add(self._last_obs, actions, rewards, dones)
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
            # Counting is the fastest check.
            for index in np.flatnonzero(dones & rollout_buffer.active) if np.count_nonzero(dones) else ():
                self._end_episode(int(index), infos[index], rollout_buffer, n_rollout_steps)

            callback.update_locals(locals())
            go_on = callback.on_step()
            # A callback may have changed the rewards, or replaced the parameters that NumPy acts with.
            rollout_buffer.set_last_rewards(rewards)
            if isinstance(act, NumpyActor) and not act.is_current():
                act = NumpyActor(self.policy)
            if not go_on:
                return False

        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _begin_batch(self, env: VecEnv, rollout_buffer: EpisodeRolloutBuffer, n_rollout_steps: int) -> None:
        rollout_buffer.reset()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        if not np.all(self._last_episode_starts):
            # Environments that finished their part of the last batch early are in the middle of an episode.
            self._last_obs = env.reset()  # type: ignore[assignment]
            self._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        self._n_started = env.num_envs if n_rollout_steps > 0 else min(self.n_episodes, env.num_envs)
        rollout_buffer.active = np.arange(env.num_envs) < self._n_started

    def _end_episode(
        self, index: int, info: dict[str, Any], rollout_buffer: EpisodeRolloutBuffer, n_rollout_steps: int
    ) -> None:
        """Close the episode that ended in an environment, and start the next one if the quotas are not met yet."""
        self._n_finished += 1
        self._update_info_buffer([info], np.array([True]))
        last = last_observation(info)
        if last is not None and self.baseline == "value":
            with th.no_grad():
                rollout_buffer.bootstrap(index, self.policy.predict_values(self.policy.obs_to_tensor(last)[0]).item())
        if self._n_started < self.n_episodes or rollout_buffer.n_transitions < n_rollout_steps:
            self._n_started += 1
        else:
            rollout_buffer.active[index] = False

    def _act(self, obs: Any) -> np.ndarray:
        with th.no_grad():
            actions = self.policy.get_distribution(obs_as_tensor(obs, self.device)).get_actions()
        return actions.cpu().numpy().reshape(-1, *self.action_space.shape)  # type: ignore[misc]

    def train(self) -> None:
        """One gradient step on the episodes collected."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        batch = self.rollout_buffer.get_samples()

        values, log_prob, entropy = self.policy.evaluate_actions(batch.observations, batch.actions)
        values = values.flatten()
        returns = batch.returns_to_go if self.credit == "reward_to_go" else batch.episode_returns
        baseline = {None: None, "mean": returns.mean(), "value": values}[self.baseline]
        advantages = policy_gradients.advantages(
            returns, batch.timesteps, self.gamma, baseline, self.discount_weighting, self.normalize_advantage
        )
        policy_loss = policy_gradients.policy_gradient_loss(log_prob, advantages)
        # Estimate the entropy if there is no closed form.
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss
        if self.baseline == "value":
            value_loss = F.mse_loss(batch.returns_to_go, values)
            loss = loss + self.vf_coef * value_loss
            self.logger.record("train/value_loss", value_loss.item())
            arrays = values.detach().cpu().numpy(), batch.returns_to_go.cpu().numpy()
            self.logger.record("train/explained_variance", explained_variance(*arrays))

        self.policy.optimizer.zero_grad()
        loss.backward()
        max_norm = math.inf if self.max_grad_norm is None else self.max_grad_norm
        grad_norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), max_norm)
        if not math.isfinite(grad_norm):
            rewards = self.rollout_buffer.rewards
            self._check_finite(rewards=rewards, observations=batch.observations, loss=loss, gradient=grad_norm)
        self.policy.optimizer.step()

        self._n_updates += 1
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/batch_episodes", self._n_started)
        self.logger.record("train/batch_steps", len(log_prob))
        self.logger.record("train/policy_loss", policy_loss.item())
        self.logger.record("train/entropy_loss", entropy_loss.item())
        self.logger.record("train/grad_norm", grad_norm.item())
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())

    def learn(
        self: SelfREINFORCE,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 10,
        tb_log_name: str = "REINFORCE",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfREINFORCE:
        """
        Learn from whole episodes, as SB3's algorithms do from rollouts.

        :param total_timesteps: Environment steps to take, over all environments. An unfinished batch is kept for a call with
            ``reset_num_timesteps=False``.
        :param callback: Called after every step.
        :param log_interval: Updates between two logs, None for no log.
        :param tb_log_name: Name of the run in the TensorBoard log.
        :param reset_num_timesteps: Whether to count from 0 and reset the environments.
        :param progress_bar: Whether to show one.
        :return: This model.
        :raises ValueError: for rewards, observations, actions or weights that are not finite.
        """
        self._check_learn(total_timesteps, log_interval)
        if reset_num_timesteps or self._last_obs is None:
            self.rollout_buffer.reset()
        if self.verbose >= 1 and self._uses_numpy():
            print("Using the NumPy backend")
        updates_before, episodes_before = self._n_updates, self._n_finished
        super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self._check_weights()
        if self._n_updates == updates_before and self.num_timesteps >= self._total_timesteps:
            finished = self._n_finished - episodes_before
            warnings.warn(
                f"learn() took {total_timesteps} steps without an update: {finished} episode(s) ended, an update needs "
                f"n_episodes={self.n_episodes} whole ones and n_steps={self.n_steps} steps. What was played is held: go on "
                "with learn(reset_num_timesteps=False) or ask for less per update. If episodes never end, wrap the "
                "environment in gymnasium.wrappers.TimeLimit"
            )
        return self
