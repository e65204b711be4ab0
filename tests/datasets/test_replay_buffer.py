"""SB3's replay buffers, as objects and as pickles, which run no code."""

import pickle
import sys

import numpy as np
import pytest
from five_episodes import assert_same, fill
from gymnasium import spaces
from hostile import Evil
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pg_extras import DatasetError, load_dataset


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
    # Each environment's rows end with the data.
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


def test_a_pickle_of_the_gym_era_is_named_as_such(tmp_path):
    (tmp_path / "x.pkl").write_bytes(b"cgym.spaces.box\nBox\n.")
    with pytest.raises(DatasetError, match=r"x\.pkl: refused: .*gym\.spaces\.box\.Box.* written with gym.*numpy\.savez"):
        load_dataset(tmp_path / "x.pkl")


def test_a_pickle_of_another_numpy_is_named_as_such(tmp_path, monkeypatch):
    (tmp_path / "x.pkl").write_bytes(b"cnumpy._core.numeric\n_frombuffer\n.")
    monkeypatch.setitem(sys.modules, "numpy._core.numeric", None)  # as numpy 1 has none
    with pytest.raises(DatasetError, match=r"x\.pkl: .*numpy\._core\.numeric.*written with another.*numpy 2") as error:
        load_dataset(tmp_path / "x.pkl")
    assert "complete" not in str(error.value)
