"""Datasets: what is accepted comes back exactly, what is not ends in one DatasetError that names it."""

import pickle
import subprocess
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import make_arrays
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import save_to_pkl
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import DatasetError, OfflineDataset, load_dataset, normalized_score
from sb3_pg_extras.datasets import collect_dataset, save_dataset
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.datasets.load import BUNDLED_DATASETS
from sb3_pg_extras.datasets.spaces import space_from_json, space_to_json


def assert_same(left: OfflineDataset, right: OfflineDataset) -> None:
    for name in (*ARRAY_FIELDS, "episode_ends"):
        np.testing.assert_equal(getattr(left, name), getattr(right, name), err_msg=name)
    assert left.observation_space == right.observation_space
    assert left.action_space == right.action_space


# --- OfflineDataset ---------------------------------------------------------------------------------------------------


def test_episodes_and_returns_by_hand(arrays):
    flags = {"terminations": np.zeros(6, bool), "truncations": np.zeros(6, bool)}
    flags["terminations"][1] = flags["truncations"][4] = True
    rewards = np.array([1, 2, 10, 20, 30, 100], np.float32)
    dataset = OfflineDataset(
        **{name: value[:6] if isinstance(value, np.ndarray) else value for name, value in arrays.items()}
        | flags
        | {"rewards": rewards}
    )
    assert dataset.episode_ends.tolist() == [2, 5, 6]
    assert dataset.episode_lengths().tolist() == [2, 3, 1]
    # The last episode is cut by the end of the data: it has no return.
    assert dataset.episode_returns().tolist() == [3.0, 60.0]
    assert "3 episodes" in repr(dataset)
    assert "mean return 31.5" in repr(dataset)


def test_dataset_is_read_only_and_leaves_the_callers_arrays_alone(arrays):
    dataset = OfflineDataset(**arrays)
    with pytest.raises(ValueError, match="read-only"):
        dataset.actions[0] = 0
    with pytest.raises(AttributeError):
        dataset.actions = arrays["actions"]  # type: ignore[misc]
    arrays["actions"][0] = 0  # still writable


def _set(arrays, name, index, value):
    array = np.array(arrays[name])
    if array.dtype == bool:
        array = array.astype(np.float32)
    array[index] = value
    return {name: array}


def _discrete_observations(row, value):
    states = np.arange(40) % 3
    following = states.astype(type(value))
    following[row] = value
    return {"observations": states, "next_observations": following, "observation_space": spaces.Discrete(3)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: {k: v[:0] for k, v in a.items() if isinstance(v, np.ndarray)}, ["observations", "empty"]),
        (lambda a: _set(a, "observations", (7, 1), np.nan), ["observations", "row 7", "nan"]),
        (lambda a: _set(a, "next_observations", (3, 0), np.inf), ["next_observations", "row 3", "inf"]),
        (lambda a: _set(a, "rewards", 5, np.nan), ["rewards", "row 5"]),
        (lambda a: {"rewards": a["rewards"].astype(np.float64) * 1e300}, ["rewards", "row 0"]),
        (lambda a: _set(a, "actions", (2, 0), 3.5), ["actions", "row 2", "3.5", "outside"]),
        (lambda a: {"rewards": a["rewards"][:-1]}, ["rewards", "39", "40"]),
        (lambda a: {"observations": a["observations"][:, :2]}, ["observations", "(40, 2)", "(3,)"]),
        (lambda a: {"actions": a["actions"][:, :1]}, ["actions", "(40, 1)", "(2,)"]),
        (lambda a: {"rewards": np.zeros((40, 2))}, ["rewards", "(40, 2)"]),
        (lambda a: _set(a, "terminations", 4, 0.5), ["terminations", "row 4", "0.5"]),
        (lambda a: {"rewards": np.array(["x"] * 40)}, ["rewards", "numbers"]),
        (lambda a: {"rewards": [[1], [1, 2]]}, ["rewards", "rectangular"]),
        (lambda a: {"episode_ends": [5, 5, 40]}, ["episode_ends", "40"]),
        (lambda a: {"episode_ends": [40]}, ["row 9", "episode_ends"]),
        (lambda a: {"action_space": spaces.Text(3)}, ["actions", "Text"]),
        (lambda a: {"observation_space": spaces.Dict(x=spaces.Box(0, 1))}, ["observations", "dict", "x"]),
        (lambda a: {"reference_scores": (1.0,)}, ["reference_scores"]),
        (lambda a: {"reference_scores": (1.0, np.nan)}, ["reference_scores", "finite", "nan"]),
        (lambda a: {"action_space": spaces.MultiBinary(2), "actions": np.full((40, 2), 0.5)}, ["actions", "row 0", "0.5"]),
        (lambda a: _discrete_observations(7, 3), ["next_observations", "row 7", "3", "outside", "Discrete(3)"]),
        (lambda a: _discrete_observations(8, 0.5), ["next_observations", "row 8", "0.5", "outside"]),
        (lambda a: {"action_space": "Box"}, ["action_space", "space of gymnasium", "'Box'"]),
        (lambda a: {"rewards": 1e308}, ["rewards", "single number"]),
    ],
)
def test_wrong_content_is_named(arrays, change, words):
    with pytest.raises(DatasetError) as error:
        OfflineDataset(**(arrays | change(arrays)))
    for word in words:
        assert word in str(error.value)


def test_a_dataset_error_is_not_what_the_zoo_prunes():
    assert not issubclass(DatasetError, (ValueError, AssertionError))


# --- dict of arrays ---------------------------------------------------------------------------------------------------


def test_dict_of_arrays_with_and_without_spaces(arrays):
    assert_same(load_dataset(arrays), OfflineDataset(**arrays))
    bare = {name: arrays[name] for name in ARRAY_FIELDS}
    assert load_dataset(bare, arrays["action_space"]).observation_space.shape == (3,)
    with pytest.raises(DatasetError, match="action_space"):
        load_dataset(bare)


def test_missing_and_unknown_fields_are_named(arrays):
    with pytest.raises(DatasetError, match="'rewards' is missing"):
        load_dataset({k: v for k, v in arrays.items() if k != "rewards"})
    with pytest.raises(DatasetError, match="'reward'"):
        load_dataset(arrays | {"reward": 1})
    with pytest.raises(DatasetError, match="int"):
        load_dataset(3)


# --- NPZ --------------------------------------------------------------------------------------------------------------


def test_npz_round_trip(arrays, tmp_path):
    dataset = OfflineDataset(
        **arrays, env_id="Made-up-v0", reference_scores=(-0.1, 3234.3), episode_ends=[10, 15, 20, 30, 40]
    )
    save_dataset(dataset, tmp_path / "new" / "x.npz")
    loaded = load_dataset(tmp_path / "new" / "x.npz")
    assert_same(loaded, dataset)
    assert (loaded.env_id, loaded.reference_scores) == ("Made-up-v0", (-0.1, 3234.3))


def test_npz_round_trip_of_images_dicts_and_discrete_actions(tmp_path):
    rng = np.random.default_rng(0)
    observations = {"image": rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8), "speed": rng.normal(size=(6, 1))}
    space = spaces.Dict(image=spaces.Box(0, 255, (8, 8, 3), np.uint8), speed=spaces.Box(-np.inf, np.inf, (1,), np.float32))
    dataset = OfflineDataset(
        observations, np.array([1, 2, 3, 1, 2, 3]), np.zeros(6), observations, np.zeros(6), np.zeros(6),
        space, spaces.Discrete(3, start=1),
    )  # fmt: skip
    save_dataset(dataset, tmp_path / "x.npz")
    assert_same(load_dataset(str(tmp_path / "x.npz")), dataset)
    with pytest.raises(DatasetError, match="row 2"):
        OfflineDataset(
            **{f: getattr(dataset, f) for f in ARRAY_FIELDS}, observation_space=space, action_space=spaces.Discrete(3)
        )


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3), np.float32),
        spaces.Box(np.array([-np.inf, 0]), np.array([1.1, np.inf]), dtype=np.float64),
        spaces.Discrete(4, start=-1),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[0, 1], [-2, 0]]),
        spaces.MultiBinary(4),
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1)),
    ],
)
def test_spaces_round_trip(space):
    assert space_from_json(space_to_json(space)) == space


def test_files_that_cannot_be_read_are_named(arrays, tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(DatasetError, match=r"x\.npz.*no such file"):
        load_dataset(path)
    save_dataset(OfflineDataset(**arrays), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(DatasetError, match=r"x\.npz"):
            load_dataset(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(path)
    with pytest.raises(DatasetError, match="single array"):
        load_dataset(path)
    with pytest.raises(DatasetError, match=r"\.csv"):
        load_dataset("x.csv")


def test_npz_with_pickled_objects_is_refused_and_not_run(arrays, tmp_path):
    path, mark = tmp_path / "x.npz", tmp_path / "was-run"
    evil = np.array([Evil(f"touch {mark}")] * 40)
    np.savez(path, **{name: arrays[name] for name in ARRAY_FIELDS} | {"rewards": evil})
    with pytest.raises(DatasetError, match=r"x\.npz"):
        load_dataset(path, arrays["action_space"])
    assert not mark.exists()


def test_a_failed_write_leaves_the_old_file(arrays, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")

    def fail(file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        save_dataset(OfflineDataset(**arrays), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_cached_until_they_change(arrays, tmp_path):
    path = tmp_path / "x.npz"
    save_dataset(OfflineDataset(**arrays), path)
    first = load_dataset(path)
    assert load_dataset(path) is first
    assert load_dataset(path, first.action_space) is first
    save_dataset(OfflineDataset(**make_arrays(50)), path)
    assert len(load_dataset(path)) == 50


def test_bundled_datasets_load_and_match_their_cards():
    for env_id, name in BUNDLED_DATASETS.items():
        dataset = load_dataset(f"bundled:{name}")
        assert dataset.env_id == env_id
        env = gym.make(env_id)
        assert (dataset.observation_space, dataset.action_space) == (env.observation_space, env.action_space)
        folder = Path(load_dataset.__globals__["__file__"]).parent / "bundled"
        assert (folder / f"{name}.npz").stat().st_size <= 2_000_000
        assert (
            f"| **the whole dataset** | {dataset.n_episodes} | {dataset.episode_returns().mean():.1f} |"
            in (folder / f"{name}.md").read_text()
        )
    with pytest.raises(DatasetError, match="pendulum"):
        load_dataset("bundled:nothing")


# --- SB3 replay buffers -----------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("n_envs", "n_steps"), [(1, 8), (1, 25), (2, 8), (2, 25)])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_replay_buffer_in_order_of_time(n_envs, n_steps, optimize_memory_usage):
    observation_space, action_space = spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, 10, (1,))
    buffer = ReplayBuffer(
        12 * n_envs, observation_space, action_space, "cpu", n_envs, optimize_memory_usage, not optimize_memory_usage
    )
    fill(buffer, n_steps)
    dataset = load_dataset(buffer)
    oldest = max(0, n_steps - 12) + (1 if optimize_memory_usage and n_steps > 12 else 0)
    steps = np.tile(np.arange(oldest, n_steps), n_envs)
    env = np.repeat(np.arange(n_envs), n_steps - oldest)
    np.testing.assert_array_equal(dataset.observations[:, 0], 100 * env + steps)
    np.testing.assert_array_equal(dataset.rewards, steps)
    # [-1, 1] -> [0, 10]
    np.testing.assert_allclose(dataset.actions[:, 0], 5 + 5 * (steps % 3) / 2)
    timeouts = steps % 7 == 6
    if optimize_memory_usage:  # this layout does not know timeouts: every end is a terminal state, as SB3 treats it
        np.testing.assert_array_equal(dataset.terminations, (steps % 5 == 4) | timeouts)
        # The observation that ended an episode is only there where no next episode has begun.
        lost = dataset.terminations & (steps < n_steps - 1)
        np.testing.assert_array_equal(dataset.next_observations[:, 0], 100 * env + steps + 1 - lost)
    else:
        np.testing.assert_array_equal(dataset.next_observations[:, 0], 100 * env + steps + 1)
        np.testing.assert_array_equal(dataset.truncations, timeouts)
        np.testing.assert_array_equal(dataset.terminations, (steps % 5 == 4) & ~timeouts)
    going_on = ~(dataset.terminations | dataset.truncations)
    np.testing.assert_array_equal(dataset.next_observations[going_on, 0], (100 * env + steps + 1)[going_on])
    # Each stream ends with the data.
    assert set(np.arange(1, n_envs + 1) * (n_steps - oldest)) <= set(dataset.episode_ends)


def test_replay_buffer_with_dict_observations():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(5))
    buffer = DictReplayBuffer(10, space, spaces.Box(-1, 1, (1,)), "cpu")
    for t in range(4):
        obs = {"a": np.full((1, 2), t / 10), "b": np.array([t])}
        buffer.add(obs, {"a": obs["a"] + 0.1, "b": obs["b"] + 1}, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    dataset = load_dataset(buffer)
    assert dataset.observations["b"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(dataset.next_observations["a"][:, 0], [0.1, 0.2, 0.3, 0.4])


def test_empty_and_unscaled_replay_buffers_are_refused():
    buffer = ReplayBuffer(10, spaces.Box(-1, 1, (1,)), spaces.Box(-2, 2, (1,)), "cpu")
    with pytest.raises(DatasetError, match="empty"):
        load_dataset(buffer)
    buffer.add(np.zeros((1, 1)), np.zeros((1, 1)), np.full((1, 1), 1.5), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(DatasetError, match=r"row 0 is \[1.5\].*scaled"):
        load_dataset(buffer)


def test_pickled_replay_buffer_of_sac_equals_the_object(tmp_path):
    model = SAC("MlpPolicy", make_vec_env("Pendulum-v1", n_envs=2), learning_starts=1000, buffer_size=500, seed=0).learn(600)
    model.save_replay_buffer(tmp_path / "replay_buffer.pkl")
    dataset = load_dataset(tmp_path / "replay_buffer.pkl")
    assert_same(dataset, load_dataset(model.replay_buffer))
    assert len(dataset) == 500
    assert dataset.truncations.sum() == 2
    assert not dataset.terminations.any()
    # What the data says is what the environment does: cos and sin of the next angle follow from the pendulum's equations.
    cos, sin, speed = dataset.observations.astype(np.float64).T
    new_speed = np.clip(speed + (15 * sin + 3 * dataset.actions[:, 0].astype(np.float64)) * 0.05, -8, 8)
    angle = np.arctan2(sin, cos) + new_speed * 0.05
    np.testing.assert_allclose(dataset.next_observations.T, [np.cos(angle), np.sin(angle), new_speed], atol=1e-4)


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return subprocess.getoutput, (self.command,)


def test_a_pickle_that_names_foreign_code_is_refused_and_not_run(tmp_path):
    path, mark = tmp_path / "replay_buffer.pkl", tmp_path / "was-run"
    path.write_bytes(pickle.dumps(Evil(f"touch {mark}")))
    with pytest.raises(DatasetError, match=r"subprocess\.getoutput") as error:
        load_dataset(path)
    assert str(path) in str(error.value)
    assert not mark.exists()
    # It would have run.
    pickle.loads(path.read_bytes())
    assert mark.exists()


@pytest.mark.parametrize(
    "payload", [b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR."]
)
def test_pickles_of_older_protocols_are_refused_too(tmp_path, payload):
    path = tmp_path / "x.pkl"
    path.write_bytes(payload)
    with pytest.raises(DatasetError, match="refused"):
        load_dataset(path)


def test_a_pickle_of_something_else_or_truncated_is_named(tmp_path):
    path = tmp_path / "x.pkl"
    save_to_pkl(path, np.zeros(3))
    with pytest.raises(DatasetError, match="ndarray, not an SB3 ReplayBuffer"):
        load_dataset(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"x\.pkl.*complete"):
        load_dataset(path)


# --- collecting -------------------------------------------------------------------------------------------------------


class Counter(gym.Env):
    """Observation: steps since the reset. Terminates after 3 steps in environment 0, is truncated after 4 in others."""

    observation_space = spaces.Box(0, 10, (1,))
    action_space = spaces.Box(-2, 2, (1,))

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.full(1, self.t, np.float32), float(self.t), self.number == 0 and self.t == 3, self.t == 4, {}


def test_collected_transitions_by_hand():
    env = VecNormalize(DummyVecEnv([Counter, lambda: Counter(1)]))
    with pytest.raises(ValueError, match="n_steps=0: must be at least 1"):
        collect_dataset(env, None, 0)
    dataset = collect_dataset(env, lambda obs: obs / 10, 10)
    # Two streams of 5 steps: 0 1 2 | 0 1 and 0 1 2 3 | 0, raw although VecNormalize is around.
    assert dataset.observations[:, 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3, 0]
    assert dataset.next_observations[:, 0].tolist() == [1, 2, 3, 1, 2, 1, 2, 3, 4, 1]
    assert dataset.rewards.tolist() == [1, 2, 3, 1, 2, 1, 2, 3, 4, 1]
    assert np.flatnonzero(dataset.terminations).tolist() == [2]
    assert np.flatnonzero(dataset.truncations).tolist() == [8]
    assert dataset.episode_ends.tolist() == [3, 5, 9, 10]
    np.testing.assert_allclose(dataset.actions, dataset.observations / 10)
    assert env.training
    assert env.norm_obs
    assert env.norm_reward
    assert env.obs_rms.count < 1  # and was not fed meanwhile


def test_random_collection_is_seeded():
    def collect():
        env = make_vec_env("Pendulum-v1", seed=3)
        env.action_space.seed(3)
        return collect_dataset(env, None, 250)

    assert_same(collect(), collect())


# --- normalised scores ------------------------------------------------------------------------------------------------


def test_normalized_scores_by_hand(arrays):
    np.testing.assert_allclose(normalized_score("Hopper-v5", [-20.272305, 3234.3]), [0, 100])
    # Halfway between the references, whatever the version.
    np.testing.assert_allclose(normalized_score("Walker2d-v2", (1.629008 + 4592.3) / 2), 50)
    own = OfflineDataset(**arrays, env_id="Hopper-v5", reference_scores=(-10.0, 10.0))
    np.testing.assert_allclose(normalized_score(own, [[-10.0], [5.0], [20.0]]), [[0], [75], [150]])
    np.testing.assert_allclose(normalized_score(OfflineDataset(**arrays, env_id="Ant-v5"), 3879.7), 100)


@pytest.mark.parametrize(
    ("source", "words"),
    [("CartPole-v1", "CartPole-v1"), ("Hopper", "'Hopper'"), (gym.make("CartPole-v1"), "CartPole-v1")],
)
def test_scores_without_references_are_refused_by_name(source, words):
    with pytest.raises(ValueError, match=words):
        normalized_score(source, 1.0)


def test_scores_need_two_different_references(arrays):
    with pytest.raises(ValueError, match=r"reference_scores: .* both score 3\.0"):
        normalized_score(OfflineDataset(**arrays, reference_scores=(3.0, 3.0)), 1.0)
    with pytest.raises(ValueError, match="None"):
        normalized_score(OfflineDataset(**arrays), 1.0)
