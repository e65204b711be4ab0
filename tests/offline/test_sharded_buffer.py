"""The buffer of data that does not fit into memory."""

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch as th
from conftest import TINY
from gymnasium import spaces
from hostile import assert_loads_or_is_refused, broken_bytes
from hypothesis import given, settings
from stable_baselines3.common.env_util import make_vec_env

from sb3_pg_extras import BEAR, DatasetError, load_dataset
from sb3_pg_extras.datasets.sharded import ShardedParquet
from sb3_pg_extras.offline.sharded_buffer import ShardedReplayBuffer

BOX = spaces.Box(-2.0, 2.0, (1,), np.float32)


def write_shards(folder, n_episodes: int = 40, length: int = 25, row_group_size: int = 60) -> np.ndarray:
    """LeRobot-like files, two of them; the state is the frame's number in all of the data, episodes end in terminals."""
    n = n_episodes * length
    index = np.arange(n)
    frame = index % length
    table = pa.table(
        {
            "observation.state": pa.FixedSizeListArray.from_arrays(
                np.stack([index, frame], axis=1).astype(np.float32).ravel(), 2
            ),
            "action": pa.FixedSizeListArray.from_arrays(np.sin(index).astype(np.float32), 1),
            "next.reward": pa.array(index.astype(np.float32)),
            "next.done": pa.array(frame == length - 1),
            "episode_index": pa.array(index // length),
            "frame_index": pa.array(frame),
        }
    )
    folder.mkdir()
    half = n // 2 // length * length
    for name, part in (("a.parquet", table[:half]), ("b.parquet", table[half:])):
        pq.write_table(part, folder / name, row_group_size=row_group_size)
    return index


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_pg_extras.datasets.sharded.PART_BYTES", 1)  # each row group is a part
    write_shards(tmp_path / "shards")
    return tmp_path / "shards"


class TwoNumbers(gym.Env):
    """It has spaces, and starts; nothing more is needed of it."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = BOX

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}


def sharded_buffer(folder, max_bytes: int, seed: int = 0, **kwargs) -> ShardedReplayBuffer:
    sharded = ShardedParquet(f"sharded:{folder}", BOX)
    return ShardedReplayBuffer(
        sharded, sharded.first.observation_space, BOX, device="cpu", seed=seed, max_bytes=max_bytes, **kwargs
    )


def test_the_parts_are_the_dataset(shards):
    """Together they hold each transition once, except those whose next frame is in another part."""
    whole, sharded = load_dataset(shards, BOX), ShardedParquet(shards, BOX)
    assert (len(sharded), sharded.n_parts) == (1000, 18)
    parts = [sharded.part(index) for index in range(sharded.n_parts)]
    got = np.concatenate([part.rewards for part in parts]).astype(int)
    assert len(set(got)) == len(got)
    # Groups of 60 frames end after frame 59, 119, ... of each file of 500; 299 is an episode's last.
    lost = {file + cut for file in (0, 500) for cut in (59, 119, 179, 239, 359, 419, 479)}
    assert set(range(1000)) - set(got) == lost
    by_row = {int(reward): row for row, reward in enumerate(whole.rewards)}
    for part in parts:
        rows = [by_row[int(reward)] for reward in part.rewards]
        for name in ("observations", "next_observations", "actions", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])


def test_actions_outside_their_bounds_are_named_with_what_to_do(shards):
    with pytest.raises(DatasetError, match=r"actions row 1 is .*clip_actions=True\) clips them, except in sharded data"):
        ShardedParquet(shards, spaces.Box(-0.5, 0.5, (1,)))


@pytest.mark.parametrize("prefix", ["", "sharded:"])
def test_choices_that_do_not_count_from_0_are_refused(prefix, shards):
    """SB3's networks would read another choice."""

    class Choices(TwoNumbers):
        observation_space = spaces.MultiDiscrete([4, 4], start=[2, 2])

    with pytest.raises(ValueError, match="count from 0"):
        BEAR("MlpPolicy", Choices(), f"{prefix}{shards}", policy_kwargs=TINY)


def test_all_of_the_data_passes_by(shards):
    """One pass of draws brings (nearly) all transitions in, and the buffer stays as small as it was told."""
    buffer = sharded_buffer(shards, max_bytes=200 * 28)
    assert buffer.size() <= 200
    seen: set[int] = set()
    drawn = 0
    while drawn < 1200:
        batch = buffer.sample(20)
        drawn += 20
        held = buffer.columns.rewards[: buffer.size()]
        seen |= set(held.flatten().int().tolist())
        assert (batch.observations[:, 0] == batch.rewards[:, 0]).all()
        assert (batch.next_observations[:, 1] == batch.observations[:, 1] + 1 - batch.dones[:, 0]).all()
        assert (batch.dones[:, 0] == (batch.observations[:, 1] == 24)).all()
    assert len(seen) == 1000 - 14


def test_the_order_of_the_parts_is_the_seeds(shards):
    def drawn(seed: int) -> list[float]:
        buffer = sharded_buffer(shards, 200 * 28, seed)
        generator = th.Generator().manual_seed(0)
        return [buffer.sample(50, generator=generator).rewards.sum().item() for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_a_small_dataset_is_held_whole(shards):
    buffer = sharded_buffer(shards, max_bytes=1 << 20)
    assert buffer.size() == 986
    before = buffer.columns.rewards.clone()
    for _ in range(30):
        buffer.sample(100)
    assert th.equal(buffer.columns.rewards[:986], before[:986])


def test_a_small_dataset_of_whole_episodes_is_held_whole(tmp_path, monkeypatch):
    """No transition is lost between its parts: there are as many as there are frames."""
    monkeypatch.setattr("sb3_pg_extras.datasets.sharded.PART_BYTES", 1)
    write_shards(tmp_path / "shards", row_group_size=50)
    buffer = sharded_buffer(tmp_path / "shards", max_bytes=1 << 20)
    assert buffer.size() == 1000
    before = buffer.columns.rewards[:1000].clone()
    for _ in range(30):
        buffer.sample(100)
    assert buffer.size() == 1000
    assert th.equal(buffer.columns.rewards[:1000], before)


def test_bear_learns_from_shards_and_says_what_it_cannot(shards, tmp_path):
    env = make_vec_env("Pendulum-v1")
    source = f"sharded:{shards}"
    with pytest.raises(DatasetError, match="observation_space"):
        BEAR("MlpPolicy", env, source)
    with pytest.raises(DatasetError, match="action_space"):
        BEAR("MlpPolicy", None, source)
    model = BEAR("MlpPolicy", TwoNumbers(), source, seed=0, policy_kwargs=TINY, warmup_fraction=0, n_steps=2, device="cpu")
    model.learn(3)
    model.save(tmp_path / "model")
    assert (
        BEAR.load(tmp_path / "model", env=TwoNumbers(), device="cpu").learn(2, reset_num_timesteps=False).num_timesteps == 5
    )
    with pytest.raises(DatasetError, match="never in memory as a whole"):
        model.save_replay_buffer(tmp_path / "buffer")
    with pytest.raises(DatasetError, match="never in memory as a whole"):
        BEAR("MlpPolicy", TwoNumbers(), source, bootstrap_probability=0.5, policy_kwargs=TINY, warmup_fraction=0).learn(1)
    with pytest.raises(DatasetError, match="sharded"):
        load_dataset(source)
    for name, word in (("nowhere", "no such file"), ("", "no .parquet file")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DatasetError, match=word):
            ShardedParquet(tmp_path / (name or "empty"), BOX)


def test_data_in_memory_have_no_limit_to_set():
    with pytest.raises(ValueError, match='replay_buffer_kwargs max_bytes: only "sharded:" datasets'):
        BEAR("MlpPolicy", "Pendulum-v1", "not opened yet.npz", replay_buffer_kwargs={"max_bytes": 1000})


def test_going_on_equals_never_having_stopped(shards, tmp_path, monkeypatch):
    """Saved and loaded six times, the same parts come in the same order, and the weights are the same."""
    opened, part = [], ShardedParquet.part
    monkeypatch.setattr(ShardedParquet, "part", lambda self, index: opened.append(index) or part(self, index))
    kwargs = {"policy_kwargs": TINY, "warmup_fraction": 0, "batch_size": 16, "device": "cpu", "seed": 3}
    kwargs["replay_buffer_kwargs"] = {"max_bytes": 200 * 28}

    def weights(model) -> th.Tensor:
        return th.nn.utils.parameters_to_vector(model.policy.parameters())

    whole = BEAR("MlpPolicy", TwoNumbers(), f"sharded:{shards}", **kwargs).learn(240)
    n_parts, held = whole.replay_buffer._n_parts, whole.replay_buffer.columns.rewards.clone()
    assert n_parts > 22  # more than a pass
    model = BEAR("MlpPolicy", TwoNumbers(), f"sharded:{shards}", **kwargs).learn(40)
    for _ in range(5):
        model.save(tmp_path / "model")
        model = BEAR.load(tmp_path / "model", env=TwoNumbers(), device="cpu").learn(40, reset_num_timesteps=False)
    assert model.replay_buffer._n_parts == n_parts
    size = whole.replay_buffer.size()
    assert th.equal(model.replay_buffer.columns.rewards[:size], held[:size])
    assert th.equal(weights(model), weights(whole))
    # Without a seed the order is of the run's own, and is kept all the same.
    model = BEAR("MlpPolicy", TwoNumbers(), f"sharded:{shards}", **kwargs | {"seed": None}).learn(40)
    model.save(tmp_path / "model")
    loaded = BEAR.load(tmp_path / "model", env=TwoNumbers(), device="cpu").learn(40, reset_num_timesteps=False)
    assert th.equal(weights(loaded), weights(model.learn(40, reset_num_timesteps=False)))


def test_training_goes_on_beside_a_saved_position(shards, tmp_path):
    kwargs = {"policy_kwargs": TINY, "warmup_fraction": 0, "batch_size": 16, "device": "cpu", "seed": 3}
    model = BEAR(
        "MlpPolicy", TwoNumbers(), f"sharded:{shards}", replay_buffer_kwargs={"max_bytes": 200 * 28}, **kwargs
    ).learn(40)
    position = model.replay_buffer.position()
    model.save(tmp_path / "model")
    held = list(position["_parts_held"])
    model.learn(80, reset_num_timesteps=False)
    assert position["_parts_held"] == held
    # The dataset anew: from its beginning, not from where it was when the model was saved.
    model.set_dataset(f"sharded:{shards}")
    assert model.replay_buffer._n_parts < position["_n_parts"]
    model.learn(5, reset_num_timesteps=False)


def test_a_damaged_part_ends_in_one_error(shards):
    path = shards / "b.parquet"
    content = bytearray(path.read_bytes())
    content[40:400] = bytes(360)
    path.write_bytes(bytes(content))
    buffer = sharded_buffer(shards, 100 * 28)

    def draw_all():
        for _ in range(200):
            buffer.sample(20)

    with pytest.raises(DatasetError, match="shards"):
        draw_all()


def test_parquet_that_does_not_fit_says_how_to_read_it_in_parts(shards, monkeypatch):
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.parquet.available_memory", lambda: 1000)
    with pytest.raises(DatasetError, match="sharded:"):
        load_dataset(shards, BOX)


def test_damaged_shards_end_in_one_error(tmp_path, monkeypatch):
    monkeypatch.setattr("sb3_pg_extras.datasets.sharded.PART_BYTES", 1)
    write_shards(tmp_path / "shards", n_episodes=4)
    path = tmp_path / "shards" / "b.parquet"
    content = path.read_bytes()

    def load():
        sharded = ShardedParquet(tmp_path / "shards", BOX)
        return [sharded.part(index) for index in range(sharded.n_parts)][-1]

    @settings(max_examples=150, deadline=None)
    @given(broken_bytes(content))
    def check(broken):
        path.write_bytes(broken)
        assert_loads_or_is_refused(load, "shards")

    check()


ROW = 32 + 8  # bytes of a transition and its number


def whole_episodes(tmp_path, monkeypatch):
    """20 parts of 50 transitions, none of which is lost."""
    monkeypatch.setattr("sb3_pg_extras.datasets.sharded.PART_BYTES", 1)
    write_shards(tmp_path / "shards", row_group_size=50)
    return tmp_path / "shards"


def test_parts_that_fill_the_buffer_to_the_last_row_are_drawn_from(tmp_path, monkeypatch):
    buffer = sharded_buffer(whole_episodes(tmp_path, monkeypatch), max_bytes=100 * ROW)
    assert buffer.size() == 100 and buffer.full
    assert len(buffer.sample(20).rewards) == 20


def test_as_many_transitions_come_in_as_are_drawn(tmp_path, monkeypatch):
    buffer = sharded_buffer(whole_episodes(tmp_path, monkeypatch), max_bytes=100 * ROW)
    before = buffer._n_parts
    for _ in range(20):
        buffer.sample(30)
    assert buffer._n_parts - before == 600 // 50


def test_the_buffer_holds_a_part_however_little_it_may(tmp_path, monkeypatch):
    buffer = sharded_buffer(whole_episodes(tmp_path, monkeypatch), max_bytes=1)
    assert buffer.size() == 50
    assert len(buffer.sample(20).rewards) == 20


def test_a_frozen_behaviour_is_drawn_anew_for_shards(shards):
    model = BEAR(
        "MlpPolicy", TwoNumbers(), f"sharded:{shards}", policy_kwargs=TINY, behavior_steps=1, batch_size=16, device="cpu"
    ).learn(3)
    assert model._behavior_samples is None


def test_the_order_is_that_of_the_models_seed_and_other_shards_begin_anew(shards, tmp_path):
    kwargs = {"policy_kwargs": TINY, "warmup_fraction": 0, "batch_size": 16, "device": "cpu"}
    model = BEAR("MlpPolicy", TwoNumbers(), f"sharded:{shards}", seed=7, **kwargs).learn(2)
    assert model.replay_buffer._seed == 7
    model.save(tmp_path / "model")
    write_shards(tmp_path / "others", n_episodes=4)
    loaded = BEAR.load(tmp_path / "model", env=TwoNumbers(), dataset=f"sharded:{tmp_path}/others", device="cpu")
    loaded.learn(2, reset_num_timesteps=False)
    assert loaded.replay_buffer.position()["_n_parts"] == loaded.replay_buffer.shards.n_parts
