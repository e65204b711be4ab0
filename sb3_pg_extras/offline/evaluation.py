"""How good a policy is, from a dataset: fitted Q evaluation (Le et al. 2019, arXiv:1903.08738) and cheaper figures."""

import pathlib
import warnings
from typing import Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy, ContinuousCritic
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    create_mlp,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac.policies import Actor
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from sb3_pg_extras.common.dicts import arrays_of, map_arrays
from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.datasets import DatasetError, DatasetSource, OfflineDataset
from sb3_pg_extras.datasets.layout import check_spaces, scale_actions
from sb3_pg_extras.offline.buffers import OfflineReplayBuffer, OfflineReplayBufferSamples
from sb3_pg_extras.offline.extractors import set_observation_statistics
from sb3_pg_extras.offline.offline_algorithm import OfflineAlgorithm
from sb3_pg_extras.offline.policies import descend, q_values

# Observations per call of a policy.
CHUNK = 4096
# Rows of the held-out data behind the cheaper figures.
MAX_ROWS = 10_000


class Value(NamedTuple):
    """
    The mean value of the initial states, its bootstrap interval over episodes, and how many episodes there are.

    ``bound``: how far from 0 rewards like the dataset's can add up to, ``max |r| / (1 - gamma)``.
    """

    mean: float
    low: float
    high: float
    n_episodes: int
    bound: float = np.inf

    @property
    def is_possible(self) -> bool:
        """
        :return: Whether the mean is within twice ``bound``: FQE errs, but where Q values diverge it is far outside. Rewards
            that are all 0 give no bound.
        """
        return self.bound == 0 or abs(self.mean) <= 2 * self.bound

    def row(self) -> dict[str, float]:
        """:return: What tables of several models show of it; ``possible`` is 1 or 0."""
        return {"value": self.mean, "low": self.low, "high": self.high, "possible": float(self.is_possible)}


class FQEPolicy(BasePolicy):
    """
    Q(s, a) for any action space: actions are scaled to [-1, 1], or one-hot. It does not act.

    :param observation_space: Observation space.
    :param action_space: Action space.
    :param lr_schedule: Learning rate schedule.
    :param net_arch: Hidden layers, ``[256, 256]`` by default.
    :param activation_fn: Activation function.
    :param features_extractor_class: For None ``CombinedExtractor`` for a Dict, ``NatureCNN`` for an image, else
        ``FlattenExtractor``.
    :param kwargs: As in SB3's ``BasePolicy``: ``optimizer_class``, ...
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        net_arch: list[int] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] | None = None,
        **kwargs: Any,
    ) -> None:
        default: Any = CombinedExtractor if isinstance(observation_space, spaces.Dict) else FlattenExtractor
        default = NatureCNN if is_image_space(observation_space) else default
        extractor_class = default if features_extractor_class is None else features_extractor_class
        super().__init__(observation_space, action_space, features_extractor_class=extractor_class, **kwargs)
        self.features = self.make_features_extractor()
        n_inputs = self.features.features_dim + get_flattened_obs_dim(action_space)
        self.q_network = nn.Sequential(*create_mlp(n_inputs, 1, [256, 256] if net_arch is None else net_arch, activation_fn))
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """
        :param obs: Observations of B states.
        :param actions: As the replay buffer holds them, (B, A).
        :return: Q values, (B, 1).
        """
        if isinstance(self.action_space, spaces.Discrete):
            actions = actions.squeeze(1)
        encoded = preprocess_obs(actions, self.action_space)
        assert isinstance(encoded, th.Tensor)
        features = self.extract_features(obs, self.features)
        return self.q_network(th.cat([features, encoded.flatten(start_dim=1)], dim=1)).float()

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        raise RuntimeError("FQE evaluates a policy and has none of its own: call predict() of the policy instead")


def fqe_target(rewards: th.Tensor, terminations: th.Tensor, next_q_values: th.Tensor, gamma: float) -> th.Tensor:
    """
    What the Q values of a fixed policy are fitted to: ``r + gamma (1 - terminated) Q'(s', a' ~ pi(s'))``
    (Le et al. 2019, Algorithm 3).

    :param rewards: shape (B, 1).
    :param terminations: 1 where s' is terminal, shape (B, 1).
    :param next_q_values: shape (B, 1).
    :param gamma: Discount factor.
    :return: shape (B, 1).
    """
    assert rewards.shape == terminations.shape == next_q_values.shape
    return rewards + gamma * (1.0 - terminations) * next_q_values


class FQE(OfflineAlgorithm):
    """
    Fitted Q evaluation: the Q function of a fixed policy, learnt from a dataset, and with it the policy's discounted value
    at the dataset's initial states. No environment is needed.

    :param policy: What to evaluate: a model or policy of SB3 or of this package, anything with ``predict``. For a model with
        a ``VecNormalize`` environment, observations are normalised by it.
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes, preferably one that the policy was not trained on.
    :param env: Not needed: the spaces are the dataset's.
    :param learning_rate: Learning rate, a number or a function of the remaining progress (from 1 to 0).
    :param batch_size: Transitions per gradient step.
    :param gamma: Discount factor.
    :param tau: Polyak coefficient of the target network's updates, 1 for a copy.
    :param target_update_interval: Gradient steps between two updates of the target network.
    :param deterministic: Whether to evaluate the policy as ``predict(deterministic=True)`` acts. Its actions are then
        computed once for the whole dataset.
    :param normalize_observations: Whether the network normalises vectors with the dataset's mean and standard deviation;
        "auto": if there are any.
    :param policy_kwargs: Arguments of :class:`FQEPolicy`: ``net_arch``, ...
    :param verbose: 0 for no output, 1 for info messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param _init_setup_model: Whether to read the dataset and build the networks at once.
    :raises ValueError: for arguments that are out of range, and for what has no ``predict``.
    :raises DatasetError: when the dataset cannot be used, its spaces are not the policy's, or nothing in it ends.
    """

    default_total_timesteps: ClassVar[int] = 20_000
    policy: FQEPolicy

    def __init__(
        self,
        policy: Any,
        dataset: DatasetSource | None = None,
        env: Any = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        gamma: float = 0.99,
        tau: float = 1.0,
        target_update_interval: int = 10,
        deterministic: bool = True,
        normalize_observations: bool | Literal["auto"] = "auto",
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            FQEPolicy,
            env,
            dataset,
            learning_rate,
            batch_size,
            gamma,
            normalize_observations=normalize_observations,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
        )
        # It is not saved: FQE.load(path, evaluated=policy, dataset=dataset).
        self.evaluated = None if isinstance(policy, type) else policy
        self.tau = tau
        self.target_update_interval = target_update_interval
        self.deterministic = deterministic
        # Else each step asks the policy, whose predict() leaves the device.
        self.cuda_graphs = deterministic
        self._next_actions: th.Tensor | None = None
        if self._vec_normalize_env is not None:
            raise ValueError(
                "env: FQE evaluates with the dataset's own rewards, leave VecNormalize out; the policy keeps its"
            )
        if _init_setup_model:
            if not hasattr(self.evaluated, "predict"):
                raise ValueError(f"policy={policy!r}: must be a model or a policy, with predict()")
            if hasattr(getattr(self.evaluated, "policy", self.evaluated), "lstm_actor"):
                raise ValueError("policy: a recurrent policy acts by its memory, which the rows of a dataset do not have")
            self._start()

    def _check_arguments(self) -> None:
        super()._check_arguments()
        self._check_numbers({"tau": (0, 1)})
        self._check_numbers({"target_update_interval": (1, np.inf)}, integer=True)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.target = FQEPolicy(self.observation_space, self.action_space, self.lr_schedule, **self._full_policy_kwargs())
        self.target.to(self.device).load_state_dict(self.policy.state_dict())
        self._add_optimizer("policy.optimizer")

    def set_dataset(self, dataset: DatasetSource) -> None:
        """
        Evaluate the policy on this dataset from now on.

        :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes.
        :raises DatasetError: when it cannot be used, its spaces are not the policy's, or no episode in it ends.
        """
        super().set_dataset(dataset)
        data, policy = self._data(), cast(Any, self.evaluated)
        if hasattr(policy, "action_space"):
            check_spaces(data, policy.observation_space, policy.action_space)
        if np.any(getattr(self.action_space, "start", 0)):
            raise ValueError(
                f"action_space={self.action_space}: SB3's policies count actions from 0, start is not supported"
            )
        check_episodes_end(data)
        if hasattr(self, "target") and self._n_updates == 0:
            set_observation_statistics(self.target, data)
        self._next_actions = None

    def _data(self) -> OfflineDataset:
        return self._filled_buffer().whole_dataset()

    def actions_at(self, observations: Any) -> th.Tensor:
        """
        :param observations: As the environment gives them, (N, ...) or a dict of such arrays.
        :return: The evaluated policy's actions there, as the replay buffer holds them, (N, A).
        :raises ValueError: when this was loaded without the policy.
        """
        if self.evaluated is None:
            raise ValueError("the policy that was evaluated is not saved: FQE.load(path, evaluated=policy, dataset=dataset)")
        n_rows, chosen = len(arrays_of(observations)[0]), []
        for start in range(0, n_rows, CHUNK):
            chunk = map_arrays(lambda array, start=start: array[start : start + CHUNK], observations)
            chosen.append(self.evaluated.predict(_normalized(self.evaluated, chunk), deterministic=self.deterministic)[0])
        return th.as_tensor(scale_actions(np.concatenate(chosen), self.action_space).reshape(n_rows, -1)).to(self.device)

    def _kind_of_step(self) -> bool:
        return (self._n_updates + 1) % self.target_update_interval == 0

    def _update(self, batch: OfflineReplayBufferSamples, step: bool) -> dict[str, th.Tensor]:
        """
        One gradient step on ``(Q(s, a) - y)^2``.

        :param batch: The transitions.
        :param step: Whether the target network follows.
        :return: The loss, and the mean Q value.
        """
        with th.no_grad():
            next_q_values = self.target(batch.next_observations, self._actions_after(batch.indices))
            target_q_values = fqe_target(batch.rewards, batch.dones, next_q_values, self.gamma)
        current_q_values = self.policy(batch.observations, batch.actions)
        loss = F.mse_loss(current_q_values, target_q_values)
        descend(self.policy.optimizer, loss)
        if step:
            polyak_update(self.policy.parameters(), self.target.parameters(), self.tau)
        return {"loss": loss.detach(), "q_value": current_q_values.detach().mean()}

    def _actions_after(self, indices: th.Tensor) -> th.Tensor:
        if not self.deterministic:
            rows = indices.cpu().numpy()
            return self.actions_at(map_arrays(lambda array: array[rows], self._data().next_observations))
        if self._next_actions is None:
            self._next_actions = self.actions_at(self._data().next_observations)
        return self._next_actions[indices]

    def q_values(self, observations: Any, actions: th.Tensor) -> np.ndarray:
        """
        :param observations: As the environment gives them, (N, ...) or a dict of such arrays.
        :param actions: As the replay buffer holds them, (N, A).
        :return: Q values, (N,).
        """
        self.policy.set_training_mode(False)
        n_rows, values = len(actions), []
        with th.no_grad():
            for start in range(0, n_rows, CHUNK):
                rows = slice(start, start + CHUNK)
                obs, _ = self.policy.obs_to_tensor(map_arrays(lambda array, rows=rows: array[rows], observations))
                values.append(self.policy(obs, actions[rows]).squeeze(1).cpu().numpy())
        return np.concatenate(values)

    def initial_values(self) -> np.ndarray:
        """:return: ``Q(s, pi(s))`` at each episode's first state, (E,)."""
        observations = map_arrays(lambda array: array[self._data().episode_starts], self._data().observations)
        return self.q_values(observations, self.actions_at(observations))

    def value(self, confidence: float = 0.95) -> Value:
        """
        :param confidence: Confidence level of the interval, between 0 and 1.
        :return: The mean of the initial states' values, with a bootstrap interval over episodes. It does not include the
            error of the learnt Q function, and is NaN where there is one episode. An impossible mean is warned of.
        """
        values = self.initial_values()
        mean = float(values.mean())
        bound = float(np.abs(self._data().rewards).max()) / (1 - self.gamma) if self.gamma < 1 else np.inf
        value = Value(mean, mean, mean, len(values), bound)
        if not value.is_possible:
            warnings.warn(
                f"the value {mean:.4g} is impossible: rewards like the dataset's add up to {bound:.4g} at most. The policy "
                "leaves the data, which cannot tell what it is worth"
            )
        if len(values) < 2:
            warnings.warn("the data has one episode: the value of one initial state, without an interval")
            return value._replace(low=np.nan, high=np.nan)
        from scipy.stats import bootstrap  # here, as it takes a second to import

        interval = bootstrap((values,), np.mean, confidence_level=confidence, method="percentile", rng=0).confidence_interval
        return value._replace(low=float(interval.low), high=float(interval.high))

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "evaluated", "target", "_next_actions"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return [*super()._get_torch_save_params()[0], "target"], []


def check_episodes_end(dataset: OfflineDataset) -> None:
    """
    :param dataset: What a policy is to be evaluated on.
    :raises DatasetError: when nothing in it ends.
    """
    if not (dataset.terminations.any() or dataset.truncations.any()):
        raise DatasetError(
            "terminations and truncations are False in all rows: where episodes begin, and what follows their ends, "
            "cannot be known. Mark each episode's last row"
        )


def evaluate_offline(
    model: Any, dataset: DatasetSource, n_steps: int = 10_000, seed: int = 0, progress: str | None = None, **fqe_kwargs: Any
) -> tuple[Value, dict[str, float]]:
    """
    :param model: The model.
    :param dataset: The held-out data, whatever :func:`sb3_pg_extras.load_dataset` takes.
    :param n_steps: Gradient steps of :class:`FQE`.
    :param seed: Seed of its random numbers. PyTorch's global ones are left as they are.
    :param progress: Label of the progress bar that appears after two seconds; None for no bar.
    :param fqe_kwargs: Other arguments of ``FQE``; discount factor and device are the model's by default.
    :return: The model's value, and its :func:`offline_figures`.
    :raises DatasetError: when the dataset cannot be used.
    """
    with th.random.fork_rng():
        th.manual_seed(seed)
        fqe = FQE(model, dataset, **{"gamma": getattr(model, "gamma", 0.99), "device": model.device, **fqe_kwargs})
        with tqdm(desc=progress, total=n_steps, unit=" steps", delay=2, leave=False, disable=progress is None) as bar:
            fqe.learn(n_steps, lambda *_: bar.update() or True, log_interval=None)
        return fqe.value(), offline_figures(model, fqe)


def offline_figures(model: BaseAlgorithm, fqe: FQE) -> dict[str, float]:
    """
    Cheap figures on how good a policy is, on at most 10,000 rows of the dataset that ``fqe`` learnt from.

    :param model: The model.
    :param fqe: Its evaluation.
    :return: ``advantage``, mean ``Q(s, pi(s)) - Q(s, a)`` by ``fqe``; ``action_error``, mean squared difference of the
        policy's actions from the data's, scaled; for SAC's actor and for discrete actor-critics, ``log_likelihood`` of the
        data's actions; for a model with continuous critics, ``td_error``, their mean squared TD error with the model's own
        discount factor and scale of rewards.
    """
    data, buffer = fqe._data(), fqe.replay_buffer
    assert buffer is not None
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), MAX_ROWS)).astype(int))
    batch = buffer.get(rows)
    observations, next_observations = (
        map_arrays(lambda array: array[rows], values) for values in (data.observations, data.next_observations)
    )
    chosen = fqe.actions_at(observations)
    advantage = fqe.q_values(observations, chosen) - fqe.q_values(observations, batch.actions)
    error = (chosen.float() - batch.actions.float()).square().mean()
    figures = {"advantage": float(advantage.mean()), "action_error": float(error)}
    policy: Any = model.policy
    policy.set_training_mode(False)
    with th.no_grad():
        obs, next_obs = (policy.obs_to_tensor(_normalized(model, values))[0] for values in (observations, next_observations))
        if isinstance(policy, ActorCriticPolicy) and not isinstance(fqe.action_space, spaces.Box):
            figures["log_likelihood"] = float(policy.evaluate_actions(obs, batch.actions.float().squeeze(1))[1].mean())
        actor = getattr(policy, "actor", None)
        if isinstance(actor, Actor) and getattr(model, "has_likelihood", True):
            mean, log_std, _ = actor.get_action_dist_params(obs)
            distribution: Any = actor.action_dist
            log_prob = distribution.proba_distribution(mean, log_std).log_prob(batch.actions.to(mean.device))
            figures["log_likelihood"] = float(log_prob.mean())
        critic = getattr(model, "critic", None)
        buffer_kwargs = getattr(model, "replay_buffer_kwargs", None) or {}
        # Without its dataset, a loaded model does not know the scale that normalize_rewards had.
        knows_scale = getattr(model, "replay_buffer", None) is not None or not buffer_kwargs.get("normalize_rewards")
        if isinstance(critic, ContinuousCritic) and knows_scale:
            next_actions = fqe.actions_at(next_observations).unsqueeze(1)
            next_q_values = q_values(critic, next_obs, next_actions).amin(dim=0)
            rewards = _learned_rewards(model, data.rewards[rows])
            target = fqe_target(rewards.to(next_q_values), batch.dones, next_q_values, model.gamma)  # type: ignore[attr-defined]
            figures["td_error"] = float((q_values(critic, obs, batch.actions.unsqueeze(1)) - target).square().mean())
    return figures


def _normalized(policy: Any, observations: Any) -> Any:
    normalize = policy.get_vec_normalize_env() if isinstance(policy, BaseAlgorithm) else None
    return observations if normalize is None else normalize.normalize_obs(observations)


def _learned_rewards(model: BaseAlgorithm, rewards: np.ndarray) -> th.Tensor:
    """:return: Rewards on the scale that the model's critics have learned, (N, 1)."""
    if isinstance(getattr(model, "replay_buffer", None), OfflineReplayBuffer):
        rewards = model.replay_buffer.scaled_rewards(rewards)  # type: ignore[attr-defined]
    normalize = model.get_vec_normalize_env()
    return th.as_tensor(rewards if normalize is None else normalize.normalize_reward(rewards)).unsqueeze(1)


class FQECallback(BaseCallback):
    """
    Evaluates the model every ``eval_freq`` steps on a held-out dataset, as SB3's ``EvalCallback`` does in an environment:
    logs ``offline/value`` and :func:`offline_figures`, and keeps the best model.

    :param dataset: The held-out data, whatever :func:`sb3_pg_extras.load_dataset` takes.
    :param eval_freq: Calls between two evaluations.
    :param n_steps: Gradient steps of each evaluation.
    :param best_model_save_path: Folder for ``best_model.zip``, the one with the highest value that is possible
        (:attr:`Value.is_possible`); None keeps none.
    :param log_path: Folder for ``offline_evaluations.npz``: ``timesteps``, ``value``, ``low``, ``high``, ``possible``
        and the figures.
    :param seed: Seed of each evaluation. Training's own random numbers are not touched.
    :param verbose: 1 to print each value.
    :param progress_bar: Whether each evaluation shows one; not together with ``learn(progress_bar=True)``.
    :param fqe_kwargs: Arguments of :class:`FQE`: ``gamma``, ``policy_kwargs``, ...
    """

    def __init__(
        self,
        dataset: DatasetSource,
        eval_freq: int = 10_000,
        n_steps: int = 10_000,
        best_model_save_path: str | pathlib.Path | None = None,
        log_path: str | pathlib.Path | None = None,
        seed: int = 0,
        verbose: int = 0,
        progress_bar: bool = False,
        **fqe_kwargs: Any,
    ) -> None:
        super().__init__(verbose)
        self.progress = "offline evaluation" if progress_bar else None
        self.dataset, self.eval_freq, self.n_steps, self.seed = dataset, eval_freq, n_steps, seed
        self.best_model_save_path, self.log_path, self.fqe_kwargs = best_model_save_path, log_path, fqe_kwargs
        self.best_value = -np.inf
        self.evaluations: list[dict[str, float]] = []

    def _init_callback(self) -> None:
        # A dataset that cannot be used is an error before training, not at the first evaluation.
        with th.random.fork_rng():
            FQE(self.model, self.dataset, **self.fqe_kwargs)

    def evaluate(self) -> tuple[Value, dict[str, float]]:
        """:return: The model's value, and the cheaper figures."""
        return evaluate_offline(self.model, self.dataset, self.n_steps, self.seed, self.progress, **self.fqe_kwargs)

    def _on_step(self) -> bool:
        if self.eval_freq <= 0 or self.n_calls % self.eval_freq:
            return True
        value, figures = self.evaluate()
        self.evaluations.append({"timesteps": self.num_timesteps, **value.row(), **figures})
        for name in ("value", *figures):
            self.logger.record(f"offline/{name}", self.evaluations[-1][name])
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose:
            print(f"Step {self.num_timesteps}: offline value {value.mean:.2f} ({value.low:.2f} to {value.high:.2f})")
        if self.log_path is not None:
            columns: Any = {name: np.array([row[name] for row in self.evaluations]) for name in self.evaluations[0]}
            with atomic_write(pathlib.Path(self.log_path) / "offline_evaluations.npz") as file:
                np.savez(file, **columns)
        if value.is_possible and value.mean > self.best_value:
            self.best_value = value.mean
            if self.best_model_save_path is not None:
                self.model.save(pathlib.Path(self.best_model_save_path) / "best_model")
        return True
