"""SB3's replay buffers, as objects and as the ``replay_buffer.pkl`` of the RL Zoo -> OfflineDataset."""

import importlib
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer

from sb3_pg_extras.common.dicts import map_arrays, named_arrays
from sb3_pg_extras.datasets.dataset import DatasetError, OfflineDataset
from sb3_pg_extras.datasets.layout import unscale_actions
from sb3_pg_extras.datasets.progress import CountedFile
from sb3_pg_extras.datasets.reading import reading, warn_of_time_limits

# Everything that a pickled replay buffer is made of. A name that is not here is refused before it is imported.
ALLOWED_CLASSES = {
    "stable_baselines3.common.buffers": {"ReplayBuffer", "DictReplayBuffer", "NStepReplayBuffer"},
    "stable_baselines3.her.her_replay_buffer": {"HerReplayBuffer"},
    "stable_baselines3.her.goal_selection_strategy": {"GoalSelectionStrategy"},
    "gymnasium.spaces.box": {"Box"},
    "gymnasium.spaces.dict": {"Dict"},
    "gymnasium.spaces.discrete": {"Discrete"},
    "gymnasium.spaces.multi_binary": {"MultiBinary"},
    "gymnasium.spaces.multi_discrete": {"MultiDiscrete"},
    "numpy": {"dtype", "ndarray", "bool_", "float32", "float64", "int8", "int32", "int64", "uint8", "bool"},
    "numpy.dtypes": {"Float32DType", "Float64DType", "Int64DType", "UInt8DType", "BoolDType"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "numpy.core.numeric": {"_frombuffer"},
    # The random generator of a space that has been sampled from.
    "numpy.random._pickle": {"__generator_ctor", "__bit_generator_ctor"},
    "numpy.random._pcg64": {"PCG64"},
    "numpy.random._generator": {"Generator"},
    "numpy.random.bit_generator": {"SeedSequence", "__pyx_unpickle_SeedSequence"},
    "collections": {"OrderedDict", "deque"},
    "torch": {"device"},
}
# Objects that a replay buffer's pickle fills. Changes to anything else, such as a class, would outlive the load.
FILLED = (
    BaseBuffer, spaces.Space, np.ndarray, np.dtype,
    np.random.Generator, np.random.BitGenerator, np.random.SeedSequence,
)  # fmt: skip
# Classes that it fills but never calls: a call with a huge size would fill the memory.
NEVER_CALLED = (BaseBuffer, spaces.Space, np.ndarray)
# The reader's method for each of a pickle's instructions.
LOAD: dict[int, Any] = pickle._Unpickler.dispatch


class ReplayBufferUnpickler(pickle._Unpickler):
    """
    A pickle reader that admits NumPy arrays, gymnasium spaces and SB3's buffers, and refuses anything else by name.

    It extends Python's pure-Python reader: the one in C can allocate tens of gigabytes for a file of nine bytes (a memo
    index), and does not let a subclass restrict what is called and filled.

    :param file: The file, open for reading.
    """

    stack: list[Any]
    read: Any
    append: Any
    dispatch: ClassVar[dict[int, Any]] = dict(LOAD)
    # Calls of the oldest protocols, which no pickle of a buffer makes.
    del dispatch[pickle.INST[0]], dispatch[pickle.OBJ[0]]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], FILLED):
            name = getattr(self.stack[-2], "__name__", type(self.stack[-2]).__name__)
            raise DatasetError(f"refused: the pickle changes {name}, which no SB3 replay buffer does")
        LOAD[pickle.BUILD[0]](self)

    def load_reduce(self) -> None:
        function = self.stack[-2]
        if isinstance(function, type) and issubclass(function, NEVER_CALLED):
            raise DatasetError(f"refused: the pickle calls {function.__name__}, which no SB3 replay buffer does")
        LOAD[pickle.REDUCE[0]](self)

    def load_bytearray8(self) -> None:
        # Python's own allocates the memory before it checks that there are as many bytes.
        length = int.from_bytes(self.read(8), "little")
        data = self.read(length)
        if len(data) < length:
            raise EOFError(f"an array of {length} bytes is cut off")
        self.append(bytearray(data))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "gym":
            raise DatasetError(
                f"refused: the pickle names {module}.{name}. It was written with gym, before SB3 2.0 moved to gymnasium: "
                "load it with the SB3 that wrote it, and save its arrays with numpy.savez"
            )
        if name not in ALLOWED_CLASSES.get(module, ()):
            raise DatasetError(
                f"refused: the pickle names {module}.{name}, which no SB3 replay buffer needs, "
                "and loading a pickle runs the code it names"
            )
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError as error:
            raise DatasetError(
                f"the pickle names {module}.{name}, which numpy {np.__version__} does not have: it was written with another "
                "version. Install that (numpy 2 for numpy._core), or load it there and save its arrays with numpy.savez"
            ) from error


def load_replay_buffer(path: str | Path) -> OfflineDataset:
    """
    Read a pickled SB3 replay buffer, such as the zoo's ``--save-replay-buffer`` writes, without running untrusted code.

    :param path: A file written by ``model.save_replay_buffer``.
    :return: The dataset.
    :raises DatasetError: when the file is missing or truncated, names a class outside :data:`ALLOWED_CLASSES`,
        or holds anything but a replay buffer.
    """
    with reading(path, "a pickled SB3 replay buffer"):
        with open(path, "rb") as file:
            buffer = ReplayBufferUnpickler(CountedFile(file)).load()
        if not isinstance(buffer, ReplayBuffer):
            raise DatasetError(f"holds a {type(buffer).__name__}, not an SB3 ReplayBuffer")
        # A pickle is not compressed: no array in it is larger than the file.
        return from_replay_buffer(buffer, Path(path).stat().st_size)


def _check(buffer: ReplayBuffer, max_bytes: float) -> None:
    """A pickle may hold a buffer that SB3 would never make."""
    shape = (buffer.buffer_size, buffer.n_envs)
    names = ["observations", "actions", "rewards", "dones", "timeouts"]
    for name in names + ["next_observations"] * (not buffer.optimize_memory_usage):
        for label, array in named_arrays(name, getattr(buffer, name, None)):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
                raise DatasetError(f"{label} must be an array of numbers, not {type(array).__name__}")
            if array.nbytes > max_bytes:
                raise DatasetError(f"{label} claims {array.nbytes} bytes in a file of {max_bytes}")
            if array.shape[:2] != shape:
                raise DatasetError(f"{label} has shape {array.shape}, but (buffer_size, n_envs) is {shape}")
    if buffer.pos not in range(buffer.buffer_size + 1):
        raise DatasetError(
            f"pos is {buffer.pos!r}: it must be an integer between 0 and the buffer_size {buffer.buffer_size}"
        )


def from_replay_buffer(buffer: ReplayBuffer, max_bytes: float = float("inf")) -> OfflineDataset:
    """
    Copy an SB3 replay buffer, of one or several environments, full or not, in either memory layout.

    SB3 stores Box actions scaled to [-1, 1] (``OffPolicyAlgorithm._store_transition``); they come back in the
    environment's units. Each environment's transitions are put in time order; where the buffer cuts an episode off, it is
    neither terminated nor truncated. With ``optimize_memory_usage`` the buffer has no truncations and has lost the
    observations that ended episodes: each end is a terminal state, and its own observation stands in for the next.

    :param buffer: The buffer.
    :param max_bytes: The most that each of its arrays may take.
    :return: The dataset.
    :raises DatasetError: when the buffer is empty or its actions are not scaled.
    """
    _check(buffer, max_bytes)
    # When full, the oldest transition stands at `pos`.
    order = (np.arange(buffer.size()) + (buffer.pos if buffer.full else 0)) % buffer.buffer_size
    if buffer.optimize_memory_usage:
        # The newest next observation has overwritten the oldest observation.
        order = order[1:] if buffer.full else order
        next_observations = _rows(buffer.observations, (order + 1) % buffer.buffer_size)
    else:
        next_observations = _rows(buffer.next_observations, order)
    if len(order) == 0:
        raise DatasetError("the replay buffer is empty")
    dones, timeouts = (_rows(flags, order).astype(bool) for flags in (buffer.dones, buffer.timeouts))
    if not buffer.handle_timeout_termination and dones.any():
        warn_of_time_limits("a replay buffer with handle_timeout_termination=False")
    observations, actions = _rows(buffer.observations, order), _rows(buffer.actions, order)
    if buffer.optimize_memory_usage:
        # The next episode's first observation has replaced the one that ended an episode, except in the newest row.
        newest = np.arange(len(dones)) % len(order) == len(order) - 1
        next_observations[dones & ~newest] = observations[dones & ~newest]
    return OfflineDataset(
        observations=observations,
        actions=unscale_actions(actions, buffer.action_space),
        rewards=_rows(buffer.rewards, order),
        next_observations=next_observations,
        terminations=dones & ~timeouts,
        truncations=timeouts,
        observation_space=buffer.observation_space,
        action_space=buffer.action_space,
        episode_ends=np.union1d(np.flatnonzero(dones | timeouts) + 1, len(order) * np.arange(1, buffer.n_envs + 1)),
    )


def _rows(values: Any, order: np.ndarray) -> Any:
    """(buffer_size, n_envs, ...) -> (len(order) * n_envs, ...), one environment after the other."""
    return map_arrays(lambda array: np.concatenate([array[order, env] for env in range(array.shape[1])]), values)
