"""The loop that offline algorithms share: one gradient step is one timestep is one ``callback.on_step()``."""

import io
import pathlib
import sys
import time
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback, tqdm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import configure_logger
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.datasets import DatasetSource, OfflineDataset, bundled_dataset_for, collect_dataset, load_dataset
from sb3_pg_extras.datasets.layout import has_spaces
from sb3_pg_extras.datasets.readers.parquet_stream import PREFIX as STREAM_PREFIX
from sb3_pg_extras.datasets.readers.parquet_stream import ParquetStream
from sb3_pg_extras.datasets.readers.replay_buffer import to_replay_buffer
from sb3_pg_extras.offline.buffers import OfflineReplayBuffer
from sb3_pg_extras.offline.normalization import running_returns, set_moments
from sb3_pg_extras.offline.policies import NormalizingPolicy
from sb3_pg_extras.offline.stream_buffer import StreamReplayBuffer

SelfOfflineAlgorithm = TypeVar("SelfOfflineAlgorithm", bound="OfflineAlgorithm")

HOW_TO_PASS_A_DATASET = "dataset= takes an .npz or replay_buffer.pkl path, an SB3 ReplayBuffer, or a dict of arrays"


class OfflineAlgorithm(BaseAlgorithm):
    """
    Base class of algorithms that learn from a fixed dataset and never step the environment.

    :param policy: The policy (MlpPolicy, CnnPolicy, MultiInputPolicy, or a class).
    :param env: The environment that the policy is for: an id, an Env, a VecEnv, or None with a dataset. It gives the
        spaces; it is stepped only if there is no dataset at all (see ``dataset``).
    :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes. None takes the dataset that is bundled for the
        environment, or else, with a warning, ``n_collect_steps`` uniformly random steps of the environment.
    :param learning_rate: Learning rate, a number or a function of the remaining progress (from 1 to 0).
    :param batch_size: Transitions per gradient step.
    :param gamma: Discount factor.
    :param n_collect_steps: Random steps to take when there is no dataset.
    :param n_steps: Steps of the return that the critics learn from, as in SB3's SAC.
    :param replay_buffer_kwargs: ``normalize_observations`` and ``normalize_rewards`` of
        :class:`~sb3_pg_extras.buffers.OfflineReplayBuffer`. The policy then normalises what it is given, too.
    :param policy_kwargs: Additional arguments of the policy.
    :param stats_window_size: Accepted as in all of SB3; there are no episodes to average over.
    :param tensorboard_log: Folder of the TensorBoard log, or None.
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages.
    :param seed: Seed of the pseudo random generators.
    :param device: PyTorch device, "auto" for a GPU if there is one.
    :param supported_action_spaces: The action spaces that the algorithm supports.
    :raises ValueError: without environment and dataset.
    :raises DatasetError: when the dataset cannot be used, or its spaces are not the environment's.
    """

    # learn()'s default number of gradient steps.
    default_total_timesteps: ClassVar[int] = 100_000
    policy: NormalizingPolicy
    replay_buffer: OfflineReplayBuffer | None

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        dataset: DatasetSource | None,
        learning_rate: float | Schedule,
        batch_size: int,
        gamma: float,
        n_collect_steps: int,
        n_steps: int = 1,
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
            loaded = _open(dataset, verbose=verbose)
            env = _DatasetEnv(_example(loaded))
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
        self.batch_size = batch_size
        self.gamma = gamma
        self.n_collect_steps = n_collect_steps
        self.n_steps = n_steps
        self.replay_buffer_kwargs = replay_buffer_kwargs or {}
        # Subclasses call set_dataset() with it once their arguments were found right: it may take long to read.
        self.dataset: DatasetSource | None = dataset
        self.replay_buffer = None
        # Type of the device, state, and (not in the first models that were saved) seed.
        self._generator_state: tuple[Any, ...] | None = None
        # Sum and number of each logged quantity since the last line of the log; sums are tensors: nothing waits for them.
        self._stats: dict[str, tuple[th.Tensor, int]] = {}
        self._step_values: dict[str, th.Tensor] = {}

    def _setup_model(self) -> None:
        if not hasattr(self, "action_space"):
            raise ValueError(f"{type(self).__name__} needs env= or dataset=, both are None. {HOW_TO_PASS_A_DATASET}")
        self._setup_lr_schedule()
        self.set_random_seed(self.seed)
        policy: Any = self.policy_class(self.observation_space, self.action_space, self.lr_schedule, **self.policy_kwargs)
        self.policy = policy.to(self.device)
        self._tell_policy_the_statistics()
        if self._generator_state is not None:
            # A loaded model goes on where it stopped, unless load() was given another seed.
            device_type, state, *seed = self._generator_state
            if device_type == self.device.type and seed in ([], [self.seed]):
                self.generator.set_state(state)

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Seed the pseudo random generators (Python, NumPy, PyTorch, environment, action space, and training's own).

        :param seed: The seed; None leaves the global generators as they are.
        """
        super().set_random_seed(seed)
        # Training draws from a generator of its own: what runs in between (evaluations, other models) changes nothing.
        if not hasattr(self, "generator"):
            self.generator = th.Generator(device=self.device)
        self.generator.manual_seed(int(th.randint(2**31, (1,))))

    def set_dataset(self, dataset: DatasetSource) -> None:
        """
        Learn from this dataset from now on.

        :param dataset: Whatever :func:`sb3_pg_extras.load_dataset` takes, or ``"stream:<path>"`` for parquet files that do
            not fit into the memory.
        :raises DatasetError: when it cannot be used, or its spaces are not the model's.
        """
        loaded = _open(dataset, self.action_space, self.verbose)
        how: dict[str, Any] = {
            "device": self.device,
            "n_steps": self.n_steps,
            "gamma": self.gamma,
        } | self.replay_buffer_kwargs
        if isinstance(loaded, ParquetStream):
            self.replay_buffer = StreamReplayBuffer(loaded, self.observation_space, self.action_space, seed=self.seed, **how)
        else:
            self.replay_buffer = OfflineReplayBuffer(loaded, self.observation_space, self.action_space, **how)
        # A path is saved with the model; arrays are not.
        self.dataset = str(dataset) if isinstance(dataset, (str, pathlib.Path)) else loaded
        if self.env is None:
            self.env = self._wrap_env(_DatasetEnv(_example(loaded)), self.verbose)
            self.n_envs = 1
        self._tell_policy_the_statistics()

    def _tell_policy_the_statistics(self) -> None:
        """What the buffer normalises in training, the policy normalises when it acts."""
        rms = None if self.replay_buffer is None else self.replay_buffer.observation_rms
        if rms is not None and hasattr(self, "policy"):
            self.policy.set_observation_statistics(rms)

    def _find_dataset(self) -> DatasetSource:
        """The dataset to learn from when the user gave none."""
        if self.dataset is not None:
            return self.dataset
        if self.num_timesteps > 0 or self.env is None:
            raise ValueError(
                f"this {type(self).__name__} has no dataset: it was not saved with the model. "
                f"Pass dataset= to load() or call set_dataset(). {HOW_TO_PASS_A_DATASET}"
            )
        spec = self.env.get_attr("spec")[0]
        env_id = None if spec is None else spec.id
        bundled = bundled_dataset_for(env_id)
        # A wrapped environment keeps its id, but may have other spaces.
        if bundled is not None and has_spaces(
            load_dataset(bundled, verbose=self.verbose), self.observation_space, self.action_space
        ):
            if self.verbose >= 1:
                print(f"Learning from the dataset that ships for {env_id}: {bundled}")
            return bundled
        warnings.warn(
            f"{type(self).__name__} was given no dataset: it takes {self.n_collect_steps} uniformly random steps in "
            f"{env_id or 'the environment'} (n_collect_steps) and learns from those. {HOW_TO_PASS_A_DATASET}"
        )
        return collect_dataset(self.env, None, self.n_collect_steps, env_id)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        """As in ``BaseAlgorithm``, but the environment, which may be a robot, is not reset."""
        if self.replay_buffer is None:
            self.set_dataset(self._find_dataset())
        if self._vec_normalize_env is not None:
            assert self.replay_buffer is not None
            self._check_normalized_once(self._vec_normalize_env, self.replay_buffer)
            freeze_statistics(self._vec_normalize_env, self.replay_buffer)
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

    def _check_normalized_once(self, env: VecNormalize, buffer: OfflineReplayBuffer) -> None:
        for name, ours, theirs in (
            ("observations", buffer.observation_rms, env.norm_obs),
            ("rewards", buffer.return_rms, env.norm_reward),
        ):
            if ours is not None and theirs:
                raise ValueError(
                    f"normalize_{name}=True and a VecNormalize environment, which normalises them too: choose one"
                )
        if self.n_steps > 1 and env.norm_reward:
            raise ValueError(
                f"n_steps={self.n_steps} and VecNormalize(norm_reward=True), which normalises single rewards: "
                'use replay_buffer_kwargs={"normalize_rewards": True} and norm_reward=False'
            )

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        initialized = super()._init_callback(callback)
        if not progress_bar:
            return initialized
        bar = _GradientStepProgressBar()
        bar.init_callback(self)
        both = CallbackList([initialized, bar])
        both.model = self
        return both

    def learn(
        self: SelfOfflineAlgorithm,
        total_timesteps: int | None = None,
        callback: MaybeCallback = None,
        log_interval: int | None = 1000,
        tb_log_name: str = "offline",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOfflineAlgorithm:
        """
        Learn from the dataset.

        :param total_timesteps: Gradient steps to take, 100,000 by default.
        :param callback: Callback(s), called once after every gradient step.
        :param log_interval: Gradient steps between two lines of the log, None for none.
        :param tb_log_name: Name of the run in the TensorBoard log.
        :param reset_num_timesteps: Whether to count gradient steps from 0 again.
        :param progress_bar: Whether to show a progress bar.
        :return: The trained model.
        """
        total_timesteps, callback = self._setup_learn(
            self.default_total_timesteps if total_timesteps is None else total_timesteps,
            callback,
            reset_num_timesteps,
            tb_log_name,
            progress_bar,
        )
        assert self.env is not None
        # What callbacks of online algorithms read: no step of an environment ever ends an episode.
        infos: list[dict[str, Any]] = [{} for _ in range(self.env.num_envs)]
        dones = np.zeros(self.env.num_envs, dtype=bool)
        new_obs = self._first_observations(self.env.num_envs)
        callback.on_training_start(locals(), globals())

        while self.num_timesteps < total_timesteps:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self.train(gradient_steps=1, batch_size=self.batch_size)
            self.num_timesteps += 1
            callback.update_locals({"infos": infos, "dones": dones, "new_obs": new_obs})
            if not callback.on_step():
                break
            if log_interval is not None and self.num_timesteps % log_interval == 0:
                self.dump_logs()

        callback.on_training_end()
        return self

    @abstractmethod
    def train(self, gradient_steps: int, batch_size: int) -> None:
        """
        Sample the dataset and update the networks.

        :param gradient_steps: Number of updates.
        :param batch_size: Transitions per update.
        """

    def _record(self, **values: th.Tensor) -> None:
        """Note values of a gradient step for the log; the mean since the last line is written."""
        self._step_values |= {name: value.detach() for name, value in values.items()}

    def _sum_up(self, values: dict[str, th.Tensor]) -> None:
        """Add the values of one gradient step to the sums."""
        known = [name for name in values if name in self._stats]
        if known:
            th._foreach_add_([self._stats[name][0] for name in known], [values[name] for name in known])
        for name, value in values.items():
            total, count = self._stats[name] if name in self._stats else (value.clone(), 0)
            self._stats[name] = (total, count + 1)

    def dump_logs(self) -> None:
        """Write the log: ``time/fps`` is gradient steps per second."""
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, (total, count) in self._stats.items():
            self.logger.record(f"train/{name}", total.item() / count)
        self._stats.clear()
        self.logger.dump(step=self.num_timesteps)

    def _first_observations(self, n: int) -> Any:
        assert self.replay_buffer is not None
        source = self.replay_buffer.observations
        if isinstance(source, dict):
            return {key: np.repeat(values[0], n, axis=0) for key, values in source.items()}
        return np.repeat(source[0], n, axis=0)

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
        """
        self._generator_state = (self.device.type, self.generator.get_state(), self.seed)
        if not isinstance(path, (str, pathlib.Path)):
            super().save(path, exclude, include)
            return
        content = io.BytesIO()
        super().save(content, exclude, include)
        path = pathlib.Path(path)
        with atomic_write(path if path.suffix else path.with_suffix(".zip")) as file:
            file.write(content.getbuffer())

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """
        Save the dataset as a pickled replay buffer of SB3's own, which its off-policy algorithms load and go on filling.

        :param path: Path of the file (``.pkl`` is added where no suffix is), or a file object. A file is written whole or
            not at all.
        :raises DatasetError: for a stream, which is never in memory as a whole.
        """
        assert self.replay_buffer is not None, "The replay buffer is not defined"
        dataset = self.replay_buffer.whole_dataset()
        buffer_class: Any = DictReplayBuffer if isinstance(self.observation_space, spaces.Dict) else ReplayBuffer
        buffer = buffer_class(len(dataset), self.observation_space, self.action_space, "cpu")
        to_replay_buffer(dataset, buffer)
        if not isinstance(path, (str, pathlib.Path)):
            save_to_pkl(path, buffer, self.verbose)
            return
        path = pathlib.Path(path)
        with atomic_write(path if path.suffix else path.with_suffix(".pkl")) as file:
            save_to_pkl(file, buffer, self.verbose)  # type: ignore[arg-type]

    def load_replay_buffer(self, path: str | pathlib.Path, truncate_last_traj: bool = True) -> None:
        """
        Learn from a pickled replay buffer from now on: the same as :meth:`set_dataset`.

        :param path: Path of the file.
        :param truncate_last_traj: Accepted as in SB3; there is no unfinished trajectory to go on with.
        """
        del truncate_last_traj
        self.set_dataset(path)

    def _excluded_save_params(self) -> list[str]:
        memory_only = [] if isinstance(self.dataset, str) else ["dataset"]
        return [*super()._excluded_save_params(), *memory_only, "generator", "_stats", "_step_values"]


def _open(
    dataset: DatasetSource, action_space: spaces.Space | None = None, verbose: int = 1
) -> OfflineDataset | ParquetStream:
    if isinstance(dataset, str) and dataset.startswith(STREAM_PREFIX):
        return ParquetStream(dataset, action_space)
    return load_dataset(dataset, action_space, verbose)


def _example(dataset: OfflineDataset | ParquetStream) -> OfflineDataset:
    return dataset.first if isinstance(dataset, ParquetStream) else dataset


class _DatasetEnv(gym.Env[Any, Any]):
    """Stands where an environment is expected: it has a dataset's spaces, and nothing to step."""

    def __init__(self, dataset: OfflineDataset) -> None:
        self.observation_space = dataset.observation_space
        self.action_space = dataset.action_space
        observations = dataset.observations
        # Copies: a view would keep all of the observations in memory.
        first = (
            {k: v[0].copy() for k, v in observations.items()} if isinstance(observations, dict) else observations[0].copy()
        )
        self._first = first

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self._first, {}

    def step(self, action: Any) -> Any:
        raise RuntimeError("This model was made with env=None: there is no environment to step. Use set_env() or pass env=")


class _GradientStepProgressBar(ProgressBarCallback):
    """
    SB3's bar counts one step per environment; one gradient step is one timestep, however many there are. It is drawn twice
    a second instead of ten times, which ``benchmarks/loop_cost.py`` showed to cost a fiftieth of the processor.
    """

    def _on_training_start(self) -> None:
        steps_left = self.locals["total_timesteps"] - self.model.num_timesteps
        self.pbar = tqdm(total=steps_left, options={"refresh_per_second": 2})

    def _on_step(self) -> bool:
        self.pbar.update(1)
        return True


def freeze_statistics(env: VecNormalize, buffer: OfflineReplayBuffer) -> None:
    """
    Give ``VecNormalize`` the statistics of a dataset and stop it from changing them: offline training never steps the
    environment, whose own statistics would stay empty.

    :param env: The wrapper.
    :param buffer: The dataset, unnormalised.
    """
    env.training = False
    if env.norm_obs:
        if isinstance(env.obs_rms, dict):
            for key, rms in env.obs_rms.items():
                set_moments(rms, buffer.observations[key][:, 0])
        else:
            set_moments(env.obs_rms, buffer.observations[:, 0])
    if env.norm_reward:
        set_moments(env.ret_rms, running_returns(buffer.dataset, env.gamma))
