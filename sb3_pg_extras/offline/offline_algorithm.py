"""The loop that offline algorithms share: one gradient step is one timestep is one ``callback.on_step()``."""

import io
import math
import pathlib
import sys
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl, recursive_getattr, save_to_pkl
from stable_baselines3.common.torch_layers import CombinedExtractor as SB3CombinedExtractor
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import FloatSchedule, configure_logger, update_learning_rate

from sb3_pg_extras.common.algorithm import CheckedAlgorithm
from sb3_pg_extras.common.dicts import map_arrays
from sb3_pg_extras.common.files import open_to_save
from sb3_pg_extras.datasets import DatasetSource
from sb3_pg_extras.datasets.layout import to_replay_buffer
from sb3_pg_extras.datasets.sharded import ShardedParquet, is_sharded
from sb3_pg_extras.fast.cuda_graphs import CapturedSteps
from sb3_pg_extras.fast.matmuls import fast_matmuls, has_bf16
from sb3_pg_extras.offline.buffers import OfflineReplayBuffer, OfflineReplayBufferSamples
from sb3_pg_extras.offline.extractors import (
    CombinedExtractor,
    NormalizedExtractor,
    default_extractor,
    has_vectors,
    set_observation_statistics,
)
from sb3_pg_extras.offline.normalization import check_normalized_once, freeze_statistics, what_is_normalized
from sb3_pg_extras.offline.policies import seeded_dropout
from sb3_pg_extras.offline.progress_bar import GradientStepProgressBar
from sb3_pg_extras.offline.sharded_buffer import ShardedReplayBuffer
from sb3_pg_extras.offline.sources import HOW_TO_PASS_A_DATASET, DatasetEnv, check_supported, dataset_for, open_dataset

SelfOfflineAlgorithm = TypeVar("SelfOfflineAlgorithm", bound="OfflineAlgorithm")

# Gradient steps between two checks that everything is still finite.
CHECK_EVERY = 100
REPLAY_BUFFER_KWARGS = {"normalize_rewards", "max_bytes"}
EXTRACTOR_KWARGS = ("features_extractor_class", "features_extractor_kwargs")


class OfflineAlgorithm(CheckedAlgorithm):
    """
    Base class of algorithms that learn from a fixed dataset and never step the environment.

    An algorithm is a policy class, :meth:`_setup_model`, which registers its optimisers with :meth:`_add_optimizer`, and
    :meth:`_update`, one gradient step. Batches, the random generator, learning rates, training mode, autocast, the log,
    saving and resuming are done here.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset. It gives the
        spaces; it is stepped only if there is no dataset at all (see ``dataset``).
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes, or ``"sharded:<path>"``. None takes the dataset that
        is bundled for the environment, or else, with a warning, ``n_collect_steps`` uniformly random steps of it.
    :param learning_rate: Learning rate, a number or a function of the remaining progress (from 1 to 0).
    :param batch_size: Transitions per gradient step.
    :param gamma: Discount factor.
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param n_steps: Steps of the return that the critics learn from, as in SB3's SAC.
    :param normalize_observations: Whether the networks normalise vectors with the dataset's mean and standard deviation
        (:class:`~sb3_pg_extras.offline.extractors.NormalizedExtractor`). "auto": if there are vectors, and no
        ``VecNormalize`` that does.
    :param precision: "fp32", or "bf16" for matrix products in bfloat16 (weights and losses stay in single precision).
    :param replay_buffer_kwargs: ``normalize_rewards=True`` divides rewards by the standard deviation of the return;
        ``max_bytes`` of :class:`~sb3_pg_extras.offline.sharded_buffer.ShardedReplayBuffer`.
    :param policy_kwargs: Additional arguments of the policy.
    :param stats_window_size: Accepted as in all of SB3; there are no episodes to average over.
    :param tensorboard_log: Folder of the TensorBoard log, or None.
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param supported_action_spaces: The action spaces that the algorithm supports.
    :param _init_setup_model: Whether to read the dataset and build the networks at once.
    :raises ValueError: without environment and dataset, and for arguments that are out of range.
    :raises DatasetError: when the dataset cannot be used, or its spaces are not the environment's.
    """

    # learn()'s default number of gradient steps.
    default_total_timesteps: ClassVar[int] = 100_000
    # Whether gradient steps on a GPU are captured as CUDA graphs. An `_update` must then be the same operators for each
    # `_kind_of_step`, change tensors in place, and not wait for the device.
    cuda_graphs: bool = False
    policy: BasePolicy
    replay_buffer: OfflineReplayBuffer | None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None,
        learning_rate: float | Schedule,
        batch_size: int,
        gamma: float = 0.99,
        n_collect_steps: int = 10_000,
        n_steps: int = 1,
        normalize_observations: bool | Literal["auto"] = False,
        precision: Literal["fp32", "bf16"] = "fp32",
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        supported_action_spaces: tuple[type[spaces.Space], ...] | None = None,
    ) -> None:
        if env is None and dataset is not None:
            loaded = open_dataset(dataset, verbose=verbose)
            env = DatasetEnv(loaded)
            dataset = dataset if isinstance(dataset, (str, pathlib.Path)) else loaded
        super().__init__(
            policy,
            env,
            learning_rate,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            supported_action_spaces=supported_action_spaces,
        )
        check_supported(getattr(self, "observation_space", None), getattr(self, "action_space", None))
        self.batch_size = batch_size
        self.gamma = gamma
        self.n_collect_steps = n_collect_steps
        self.n_steps = n_steps
        self.normalize_observations: Any = normalize_observations
        self._check_choices({"normalize_observations": (True, False, "auto")})
        if normalize_observations == "auto":
            env = self._vec_normalize_env
            vectors = has_vectors(getattr(self, "observation_space", None))
            self.normalize_observations = vectors and not (env is not None and env.norm_obs)
        self.precision = precision
        self.replay_buffer_kwargs = replay_buffer_kwargs or {}
        self.dataset: DatasetSource | None = dataset
        self.replay_buffer = None
        # As saved: the device's type, the generator's state, the seed.
        self._generator_state: tuple[Any, ...] | None = None
        # As saved: the path of a sharded dataset, and how far it had been read.
        self._sharded_position: tuple[str, dict[str, Any] | None] = ("", None)
        # Whether VecNormalize normalised the observations and rewards that the networks learned from; None before.
        self._learned_normalized: str | None = None
        # Sum and count of each logged quantity since the last log; sums are tensors, so that no step waits for the device.
        self._sums: dict[str, tuple[Any, int]] = {}

    def _start(self) -> None:
        """Read the dataset and build the networks, once the subclass has set its arguments."""
        self._check_arguments()
        self._check_device()
        # Before the networks: reading needs memory for a moment, optimisers keep theirs.
        if self.dataset is not None:
            self.set_dataset(self.dataset)
        self._setup_model()

    def _check_arguments(self) -> None:
        if not hasattr(self, "action_space"):
            raise ValueError(f"{type(self).__name__} needs env= or dataset=, both are None. {HOW_TO_PASS_A_DATASET}")
        super()._check_arguments()
        if not isinstance(self.replay_buffer_kwargs, dict):
            raise ValueError(f"replay_buffer_kwargs={self.replay_buffer_kwargs!r}: must be a dict")
        unknown = sorted(set(self.replay_buffer_kwargs) - REPLAY_BUFFER_KWARGS)
        if unknown:
            raise ValueError(f"replay_buffer_kwargs {unknown[0]!r}: must be among {sorted(REPLAY_BUFFER_KWARGS)}")
        self._check_choices({"precision": ("fp32", "bf16")})
        sizes = dict.fromkeys(("batch_size", "n_collect_steps", "n_steps"), (1, math.inf))
        self._check_numbers(sizes, integer=True)
        self._check_numbers({"gamma": (0, 1)})

    def _check_replay_buffer_kwargs(self, dataset: DatasetSource | None) -> None:
        if "max_bytes" in self.replay_buffer_kwargs and not is_sharded(dataset):
            raise ValueError('replay_buffer_kwargs max_bytes: only "sharded:" datasets have such a limit, leave it out')

    def _check_device(self) -> None:
        """Only learning needs this: a model can be loaded and act without."""
        if self.precision == "bf16" and not has_bf16(self.device):
            raise ValueError('precision="bf16": this processor has no bfloat16 arithmetic, use "fp32"')

    def _setup_model(self) -> None:
        """Build the networks. Subclasses add their optimisers."""
        self._check_arguments()
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        kwargs = self._full_policy_kwargs()
        own_extractor = f"{self.policy_class.__name__} makes its own features extractor: pass normalize_observations=False"
        try:
            policy: Any = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **kwargs)
        except TypeError as error:
            if "features_extractor_class" not in str(error):
                raise
            raise ValueError(own_extractor) from error
        if self.normalize_observations and not any(isinstance(module, NormalizedExtractor) for module in policy.modules()):
            raise ValueError(own_extractor)
        self.policy = policy.to(self.device)
        if self.replay_buffer is not None:
            set_observation_statistics(self.policy, self.replay_buffer.dataset)
        self._optimizers: dict[str, tuple[th.optim.Optimizer, str]] = {}
        self._captured_steps: CapturedSteps | None = None
        self._largest_matrix = max((parameter.numel() for parameter in self.policy.parameters()), default=0)
        if self._generator_state is not None:
            # A loaded model resumes where it stopped, unless load() was given another seed.
            device_type, state, seed = self._generator_state
            if device_type == self.device.type and seed == self.seed:
                self.generator.set_state(state)

    def _full_policy_kwargs(self) -> dict[str, Any]:
        """:return: The user's ``policy_kwargs``, which are not changed, and what follows from other arguments."""
        default = default_extractor(self.policy_class)
        kwargs = self.policy_kwargs
        if default is SB3CombinedExtractor and any("." in key for key in self.observation_space.spaces):  # type: ignore
            kwargs = {"features_extractor_class": CombinedExtractor, **kwargs}
        if not self.normalize_observations:
            return kwargs
        inner = {"features_extractor_class": default} | {name: kwargs[name] for name in EXTRACTOR_KWARGS if name in kwargs}
        return {**kwargs, "features_extractor_class": NormalizedExtractor, "features_extractor_kwargs": inner}

    def _add_optimizer(self, name: str, learning_rate: str = "lr_schedule") -> None:
        """
        :param name: The attribute that is one of the algorithm's optimisers, such as "policy.actor.optimizer".
        :param learning_rate: The attribute that is its learning rate, a number or a function of the remaining progress.
        """
        self._optimizers[name] = (recursive_getattr(self, name), learning_rate)

    @abstractmethod
    def _update(self, batch: OfflineReplayBufferSamples, step: Any) -> dict[str, th.Tensor]:
        """
        One gradient step: compute all losses and descend them.

        :param batch: The transitions.
        :param step: What :meth:`_kind_of_step` returned for this step.
        :return: Losses and other figures for the log: detached scalars on the device.
        """

    def _kind_of_step(self) -> Any:
        """:return: What decides, besides batch and weights, what the next step computes."""
        return None

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """
        Draw batches of the dataset and update the networks.

        :param gradient_steps: Number of updates.
        :param batch_size: Transitions per update.
        """
        assert self.replay_buffer is not None
        self.policy.set_training_mode(True)
        for optimizer, name in self._optimizers.values():
            update_learning_rate(optimizer, FloatSchedule(getattr(self, name))(self._current_progress_remaining))
        self.logger.record("train/learning_rate", self.lr_schedule(self._current_progress_remaining))
        autocast = th.autocast(self.device.type, th.bfloat16, enabled=self.precision == "bf16")
        update: Any = self._update
        if self.captures_steps:
            optimizers = [optimizer for optimizer, _ in self._optimizers.values()]
            self._captured_steps = self._captured_steps or CapturedSteps(optimizers, self.generator)
            update = partial(self._captured_steps, self._update)
        with fast_matmuls(self.device, self._largest_matrix), autocast:
            for _ in range(gradient_steps):
                batch = self.replay_buffer.sample(batch_size, self._vec_normalize_env, self.generator)
                step = self._kind_of_step()
                with seeded_dropout(self.policy, self.generator):
                    values = update(batch, step)
                for name, value in values.items():
                    total, count = self._sums.get(name, (0.0, 0))
                    self._sums[name] = (total + value, count + 1)
                self._n_updates += 1

    @property
    def captures_steps(self) -> bool:
        """:return: Whether gradient steps are captured as CUDA graphs."""
        return self.cuda_graphs and self.device.type == "cuda"

    def set_parameters(
        self, load_path_or_dict: str | TensorDict, exact_match: bool = True, device: th.device | str = "auto"
    ) -> None:
        """
        As in SB3.

        :param load_path_or_dict: A saved model's path, or a dict of state dicts such as ``get_parameters`` gives.
        :param exact_match: Whether all parameters have to be there.
        :param device: Where to load them to.
        """
        super().set_parameters(load_path_or_dict, exact_match, device)
        # Optimisers put their loaded state elsewhere.
        self._captured_steps = None

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed the pseudo random generators (Python, NumPy, PyTorch, environment, action space, and training's own).

        :param seed: The seed; None leaves the global generators as they are.
        """
        super().set_random_seed(seed)
        # Training has its own generator: what else draws meanwhile (evaluations, other models) changes nothing.
        if not hasattr(self, "generator"):
            self.generator = th.Generator(device=self.device)
        self.generator.manual_seed(int(th.randint(2**31, (1,))))

    @property
    def learned_normalized(self) -> bool:
        """:return: Whether it has learned with a ``VecNormalize`` that normalises."""
        return self._learned_normalized not in (None, what_is_normalized(None))

    def set_dataset(self, dataset: DatasetSource) -> None:
        """
        Learn from this dataset from now on. Networks that have learned go on normalising observations with the statistics of
        their first dataset.

        :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes, or ``"sharded:<path>"`` for parquet files that do
            not fit into memory.
        :raises DatasetError: when it cannot be used, or its spaces are not the model's.
        :raises ValueError: for ``replay_buffer_kwargs`` that do not fit it.
        """
        self._check_replay_buffer_kwargs(dataset)
        loaded = open_dataset(dataset, self.action_space, self.verbose)
        kwargs: dict[str, Any] = {"device": self.device, "n_steps": self.n_steps, "gamma": self.gamma}
        kwargs |= self.replay_buffer_kwargs
        if isinstance(loaded, ShardedParquet):
            path, position = self._sharded_position
            kwargs |= {"seed": self.seed, "position": position if path == str(dataset) else None}
            self.replay_buffer = ShardedReplayBuffer(loaded, self.observation_space, self.action_space, **kwargs)
        else:
            self.replay_buffer = OfflineReplayBuffer(loaded, self.observation_space, self.action_space, **kwargs)
        self._sharded_position = ("", None)
        # A path is saved with the model; arrays are not.
        self.dataset = str(dataset) if isinstance(dataset, (str, pathlib.Path)) else loaded
        if self.env is None:
            self.env = self._wrap_env(DatasetEnv(loaded), self.verbose)
            self.n_envs = 1
        if getattr(self, "policy", None) is not None and self._n_updates == 0:
            set_observation_statistics(self.policy, self.replay_buffer.dataset)
        self._captured_steps = None

    def _filled_buffer(self) -> OfflineReplayBuffer:
        """
        :return: The replay buffer; a loaded model reads its dataset for it first.
        :raises ValueError: when there is no dataset.
        """
        if self.replay_buffer is None:
            if self.dataset is None:
                raise ValueError(
                    f"this {type(self).__name__} has no dataset: it was not saved with the model. "
                    f"Pass dataset= to load() or call set_dataset(). {HOW_TO_PASS_A_DATASET}"
                )
            self.set_dataset(self.dataset)
        assert self.replay_buffer is not None
        return self.replay_buffer

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """As in ``BaseAlgorithm``, but the environment, which may be a robot, is not reset."""
        # The user may have changed any argument since.
        self._check_arguments()
        self._check_device()
        buffer = self.replay_buffer
        if buffer is not None and (buffer.n_steps, buffer.gamma) != (self.n_steps, self.gamma):
            self.replay_buffer = None
        if self.replay_buffer is None and self.dataset is None and self.num_timesteps == 0 and self.env is not None:
            self._check_replay_buffer_kwargs(None)
            self.dataset = dataset_for(self.env, self.n_collect_steps, self.verbose)
        buffer = self._filled_buffer()
        normalized = what_is_normalized(self._vec_normalize_env)
        if self._learned_normalized not in (None, normalized):
            raise ValueError(
                f"VecNormalize is {normalized}, but this {type(self).__name__} learned with {self._learned_normalized}: "
                "pass load(), or set_env(), an env= that is wrapped in the same way"
            )
        self._learned_normalized = normalized
        if self._vec_normalize_env is not None:
            check_normalized_once(self._vec_normalize_env, self.normalize_observations, buffer.return_rms is not None)
            freeze_statistics(self._vec_normalize_env, buffer.dataset)
        self._captured_steps = None
        self.start_time = time.time_ns()
        if self.ep_info_buffer is None or reset_num_timesteps:
            self.ep_info_buffer = deque(maxlen=self._stats_window_size)
            self.ep_success_buffer = deque(maxlen=self._stats_window_size)
        if reset_num_timesteps:
            self.num_timesteps = 0
        else:
            total_timesteps += self.num_timesteps
        self._total_timesteps = total_timesteps
        self._num_timesteps_at_start = self.num_timesteps
        if not self._custom_logger:
            self._logger = configure_logger(self.verbose, self.tensorboard_log, tb_log_name, reset_num_timesteps)
        return total_timesteps, self._init_callback(callback, progress_bar)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        initialized = super()._init_callback(callback)
        if not progress_bar:
            return initialized
        bar = GradientStepProgressBar()
        bar.init_callback(self)
        both = CallbackList([initialized, bar])
        both.model = self
        return both

    def learn(
        self: SelfOfflineAlgorithm,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOfflineAlgorithm:
        """
        Learn from the dataset.

        :param total_timesteps: Gradient steps to take, ``default_total_timesteps`` of the class by default.
        :param callback: Callback(s), called once after every gradient step.
        :param log_interval: Gradient steps between two logs, None for no log.
        :param tb_log_name: Name of the run in the TensorBoard log, the algorithm's by default.
        :param reset_num_timesteps: Whether to count gradient steps from 0 again.
        :param progress_bar: Whether to show a progress bar.
        :return: The trained model.
        """
        total_timesteps = self.default_total_timesteps if total_timesteps is None else total_timesteps
        self._check_learn(total_timesteps, log_interval)
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        assert self.env is not None and self.replay_buffer is not None
        # What callbacks of online algorithms read: no step of an environment ever ends an episode.
        infos: list[dict[str, Any]] = [{} for _ in range(self.env.num_envs)]
        dones = np.zeros(self.env.num_envs, dtype=bool)
        first = self.replay_buffer.observations
        new_obs = map_arrays(lambda values: np.repeat(values[0], len(dones), axis=0), first)
        callback.on_training_start(locals(), globals())

        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            callback.update_locals({"infos": infos, "dones": dones, "new_obs": new_obs})
            if not callback.on_step():
                break
            if self.num_timesteps % CHECK_EVERY == 0:
                self._check_weights()
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()

        self._check_weights()
        callback.on_training_end()
        return self

    def _check_weights(self) -> None:
        """:raises ValueError: for a logged quantity, or a weight, that is not a finite number."""
        wrong = [name for name, (total, _) in self._sums.items() if not math.isfinite(total)]
        wrong = wrong or [name for name, weight in self.policy.named_parameters() if not weight.isfinite().all()]
        if wrong:
            raise ValueError(
                f"{wrong[0]} is not finite at gradient step {self.num_timesteps}, or in the {CHECK_EVERY} before it: look "
                "for extreme rewards and observations in the dataset (sb3-pg-extras inspect), normalise them "
                "(normalize_observations, normalize_rewards), or lower the learning rates"
            )

    def dump_logs(self) -> None:
        """Write the log: ``time/fps`` is gradient steps per second."""
        self._check_weights()
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, (total, count) in self._sums.items():
            self.logger.record(f"train/{name}", total.item() / count)
        self._sums.clear()
        self.logger.dump(step=self.num_timesteps)

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """
        Save the model as a zip file, whole or not at all. The dataset is not saved, only its path if it has one.

        :param path: Path of the file (``.zip`` is added where no suffix is), or a file object.
        :param exclude: Names of attributes to leave out, besides the default ones.
        :param include: Names of attributes to save although they are left out by default.
        :raises ValueError: when a weight is not a finite number.
        """
        self._generator_state = (self.device.type, self.generator.get_state(), self.seed)
        if isinstance(self.replay_buffer, ShardedReplayBuffer):
            self._sharded_position = (str(self.dataset), self.replay_buffer.position())
        super().save(path, exclude, include)
        self._sharded_position = ("", None)

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the dataset as a pickled replay buffer of SB3's own, which its off-policy algorithms load. It is full: what they
        add takes the place of the dataset's first transitions.

        :param path: Path of the file (``.pkl`` is added where no suffix is), or a file object. A file is written whole or
            not at all.
        :raises DatasetError: for a sharded dataset, which is never in memory as a whole.
        :raises ValueError: when there is no dataset.
        """
        dataset = self._filled_buffer().whole_dataset()
        buffer_class: Any = DictReplayBuffer if isinstance(self.observation_space, spaces.Dict) else ReplayBuffer
        buffer = buffer_class(len(dataset), self.observation_space, self.action_space, "cpu")
        to_replay_buffer(dataset, buffer)
        with open_to_save(path, ".pkl") as file:
            save_to_pkl(file, buffer, self.verbose)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Learn from a pickled replay buffer from now on: the same as :meth:`set_dataset`.

        :param path: Path of the file (``.pkl`` is added where no suffix is), or a file object.
        :param truncate_last_traj: Ignored, as there is no unfinished trajectory to continue.
        """
        del truncate_last_traj
        if not isinstance(path, (str, pathlib.Path)):
            self.set_dataset(load_from_pkl(path, self.verbose))
        else:
            self.set_dataset(path if pathlib.Path(path).suffix else f"{path}.pkl")

    def _excluded_save_params(self) -> list[str]:
        memory_only = ["generator", "_sums", "_optimizers", "_captured_steps"]
        return [*super()._excluded_save_params(), *memory_only, *([] if isinstance(self.dataset, str) else ["dataset"])]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *self._optimizers], []
