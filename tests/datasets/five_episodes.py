"""
Five episodes in every format, which the tests of the formats share.

Formats of whole episodes have episodes 1 to 5 of ``EPISODES``; formats of flat rows those of ``FLAT``. Each test says in a
table, worked out by hand, what they are as a dataset.
"""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_pg_extras import OfflineDataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS

FIXTURES = Path(__file__).parent / "fixtures"
IMITATION = FIXTURES / "imitation"
ARROW_FILE = "data-00000-of-00001.arrow"

# --- whole episodes ---------------------------------------------------------------------------------------------------

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, (1,), np.float32)
ACTION_SPACE = spaces.Box(0, 10, (1,), np.float32)
# Episode k, step t: observation 10 k + t, action k + t / 10, reward 100 k + t. Steps, and how the episode ends:
EPISODES = {
    1: (3, "terminated"),
    2: (2, "truncated"),
    3: (1, "terminated"),
    4: (4, ""),  # cut by the end of the data
    5: (2, "terminated truncated"),
}
#   s    a    r  s' terminated truncated
TABLE = """
   10  1.0  100  11  0  0
   11  1.1  101  12  0  0
   12  1.2  102  13  1  0

   20  2.0  200  21  0  0
   21  2.1  201  22  0  1

   30  3.0  300  31  1  0

   40  4.0  400  41  0  0
   41  4.1  401  42  0  0
   42  4.2  402  43  0  0
   43  4.3  403  44  0  0

   50  5.0  500  51  0  0
   51  5.1  501  52  1  1
"""


def assert_is_table(dataset: OfflineDataset, table: str) -> None:
    episodes = [np.array([line.split() for line in block.splitlines() if line], float) for block in table.split("\n\n")]
    s, a, r, s_next, terminated, truncated = np.concatenate(episodes).T
    np.testing.assert_array_equal(dataset.observations[:, 0], s)
    np.testing.assert_array_equal(dataset.actions[:, 0], a.astype(np.float32))
    np.testing.assert_array_equal(dataset.rewards, r)
    np.testing.assert_array_equal(dataset.next_observations[:, 0], s_next)
    np.testing.assert_array_equal(dataset.terminations, terminated)
    np.testing.assert_array_equal(dataset.truncations, truncated)
    np.testing.assert_array_equal(dataset.episode_ends, np.cumsum([len(episode) for episode in episodes]))


def assert_same(left: OfflineDataset, right: OfflineDataset) -> None:
    for name in (*ARRAY_FIELDS, "episode_ends", "env_id", "reference_scores", "observation_space", "action_space"):
        np.testing.assert_equal(getattr(left, name), getattr(right, name), err_msg=name)


def minari_buffers() -> list[EpisodeBuffer]:
    buffers = []
    for k, (steps, ending) in EPISODES.items():
        last = [False] * (steps - 1)
        buffers.append(
            EpisodeBuffer(
                observations=np.array([[10 * k + t] for t in range(steps + 1)], np.float32),
                actions=np.array([[k + t / 10] for t in range(steps)], np.float32),
                rewards=[100 * k + t for t in range(steps)],
                terminations=[*last, "terminated" in ending],
                truncations=[*last, "truncated" in ending],
            )
        )
    return buffers


def change_imitation(folder: Path, change) -> Path:
    """A copy of the fixture with another table in it."""
    shutil.copytree(IMITATION, folder, dirs_exist_ok=True)
    with pa.ipc.open_stream((IMITATION / ARROW_FILE).read_bytes()) as stream:
        table = change(stream.read_all())
    with pa.OSFile(str(folder / ARROW_FILE), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return folder


def frames() -> pa.Table:
    rows = [(k, t, t == steps - 1, ending) for k, (steps, ending) in EPISODES.items() for t in range(steps)]
    return pa.table(
        {
            "observation.state": pa.array([[10.0 * k + t] for k, t, _, _ in rows], pa.list_(pa.float32())),
            "action": pa.array([[k + t / 10] for k, t, _, _ in rows], pa.list_(pa.float32(), 1)),
            "next.reward": pa.array([100.0 * k + t for k, t, _, _ in rows], pa.float32()),
            "next.done": [last and "terminated" in ending for _, _, last, ending in rows],
            "next.truncated": [last and "truncated" in ending for _, _, last, ending in rows],
            "next.success": [False] * len(rows),
            "episode_index": [k for k, _, _, _ in rows],
            "frame_index": [t for _, t, _, _ in rows],
            "index": list(range(len(rows))),
            "timestamp": [t / 10 for _, t, _, _ in rows],
        }
    )


def with_values(name, values, rows=None):
    def change(table):
        column = table[name].to_pylist()
        for row in range(len(column)) if rows is None else rows:
            column[row] = values
        return table.set_column(table.column_names.index(name), name, pa.array(column))

    return change


# --- flat rows --------------------------------------------------------------------------------------------------------

# Step t of episode e has the observation [10 e + t, 10 e + t + 0.5], a hundredth of it as action, a tenth as reward.
# Episode 1 terminates, 2 times out, 3 is a single step, 4 is terminal and timed out at once, 5 is cut by the file's end.
STEPS = np.array([10, 11, 12, 20, 21, 22, 30, 40, 41, 50, 51])
LENGTHS = [3, 3, 1, 2, 2]
TERMINALS = STEPS % 20 == 12
TERMINALS[[6, 8]] = True
TIMEOUTS = np.isin(STEPS, [22, 41])


def observations(steps) -> np.ndarray:
    steps = np.asarray(steps, np.float32)[:, np.newaxis]
    return np.hstack([steps, steps + 0.5])


def actions(steps) -> np.ndarray:
    steps = np.asarray(steps, np.float32)[:, np.newaxis]
    return np.hstack([steps, -steps]) / 100


FLAT = {
    "observations": observations(STEPS),
    "actions": actions(STEPS),
    "rewards": (STEPS / 10).astype(np.float32),
    "terminals": TERMINALS,
    "timeouts": TIMEOUTS,
}


def write(path: Path, arrays: dict, **kwargs) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **kwargs)
    return path


def write_robomimic(path: Path, keys=("state",), next_obs: bool = False, order=(0, 1, 2, 3, 10)) -> Path:
    """robomimic's schema; the demonstrations 0, 1, 2, 3, 10 are the five episodes, `dones` where they terminate."""
    ends = np.cumsum(LENGTHS)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = len(STEPS)
        data.attrs["env_args"] = '{"env_name": "Lift", "env_type": 1, "env_kwargs": {}}'
        for number in order:
            episode = [0, 1, 2, 3, 10].index(number)
            rows = slice(ends[episode] - LENGTHS[episode], ends[episode])
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = LENGTHS[episode]
            demo["actions"], demo["rewards"] = FLAT["actions"][rows].astype(np.float64), FLAT["rewards"][rows]
            demo["dones"] = TERMINALS[rows].astype(np.int64)
            demo["states"] = np.zeros((LENGTHS[episode], 4))
            for key in keys:
                for group, offset in [("obs", 0), ("next_obs", 1)][: 1 + next_obs]:
                    demo[f"{group}/{key}"] = observations(STEPS[rows] + offset)
        file.create_group("mask")["train"] = np.array([b"demo_0"])
    return path


def content_of(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file by its path."""
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    return {name: array for name, array in arrays.items() if np.asarray(array).dtype.kind in "biuf"}


def write_formats(folder: Path) -> dict[str, Path]:
    """One whole file per format and layout."""
    with_next = FLAT | {"next_observations": observations(STEPS + 1)}
    return {
        "d4rl": write(folder / "d4rl.hdf5", FLAT),
        "d4rl-gzip": write(folder / "gzip.hdf5", with_next, compression="gzip"),
        "robomimic": write_robomimic(folder / "robomimic.hdf5", ("state", "other"), next_obs=True),
        "d3rlpy": FIXTURES / "d3rlpy_discrete.h5",
    }


# --- SB3's replay buffers ---------------------------------------------------------------------------------------------


def fill(buffer: ReplayBuffer, n_steps: int) -> None:
    """Step t of environment e has observation 100 e + t and leads to 100 e + t + 1; an end at every 5th and 7th step."""
    for t in range(n_steps):
        state = 100.0 * np.arange(buffer.n_envs)[:, np.newaxis] + t
        done, timeout = t % 5 == 4 or t % 7 == 6, t % 7 == 6
        action, reward, dones = (
            np.full((buffer.n_envs, 1), (t % 3) / 2),
            np.full(buffer.n_envs, t),
            np.full(buffer.n_envs, done),
        )
        buffer.add(state, state + 1, action, reward, dones, [{"TimeLimit.truncated": timeout}] * buffer.n_envs)
