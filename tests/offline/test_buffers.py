"""The buffer that offline algorithms draw from: in memory and memory-mapped."""

import mmap
import warnings
from zipfile import ZipFile

import numpy as np
import pytest
import torch as th
from conftest import make_arrays
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg_extras import BEAR, DatasetError, OfflineDataset, load_dataset, save_dataset
from sb3_pg_extras.datasets import mapped
from sb3_pg_extras.datasets.dataset import ARRAY_FIELDS
from sb3_pg_extras.datasets.readers import npz
from sb3_pg_extras.offline.buffers import OfflineReplayBuffer
from sb3_pg_extras.offline.losses import mixed_target_q_values
from sb3_pg_extras.offline.normalization import running_returns, set_moments
from sb3_pg_extras.offline.sources import DatasetEnv

BOX = spaces.Box(-2.0, 2.0, (1,), np.float32)
TARGET = "sb3_pg_extras.bear.bear.mixed_target_q_values"
TINY = {"net_arch": [8], "vae_net_arch": [8]}


def chain(**changes) -> OfflineDataset:
    """Episodes of 4 steps (terminal), 2 (time limit) and 3 (cut by the end of the data); state t, reward 10^-t by row."""
    n = 9
    state = np.arange(n, dtype=np.float32)[:, None]
    return OfflineDataset(
        **{
            "observations": state,
            "actions": (state / 8) * 2 - 1,
            "rewards": np.array([1, 2, 3, 4, 5, 6, 7, 8, 9], np.float32),
            "next_observations": state + 0.5,
            "terminations": np.arange(n) == 3,
            "truncations": np.arange(n) == 5,
            "observation_space": spaces.Box(-np.inf, np.inf, (1,), np.float32),
            "action_space": BOX,
        }
        | changes
    )


def buffer_of(dataset: OfflineDataset, **kwargs) -> OfflineReplayBuffer:
    return OfflineReplayBuffer(dataset, dataset.observation_space, dataset.action_space, device="cpu", **kwargs)


def all_of(buffer: OfflineReplayBuffer):
    return buffer.get(np.arange(buffer.size()))


def assert_same_batches(left, right) -> None:
    for name, a, b in zip(left._fields, left, right, strict=True):
        if isinstance(a, dict):
            assert a.keys() == b.keys(), name
            for key in a:
                th.testing.assert_close(a[key], b[key], rtol=0, atol=0)
        else:
            th.testing.assert_close(a, b, rtol=0, atol=0)


def test_one_step_transitions_by_hand():
    batch = all_of(buffer_of(chain()))
    assert batch.rewards.flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert batch.dones.flatten().tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert batch.observations.flatten().tolist() == list(range(9))
    assert batch.next_observations.flatten().tolist() == [t + 0.5 for t in range(9)]
    np.testing.assert_allclose(batch.actions.flatten(), (np.arange(9) / 8 * 2 - 1) / 2)  # -1 ... 1 in a space of +-2
    assert batch.discounts.unique().tolist() == [pytest.approx(0.99)]


def test_n_step_returns_by_hand():
    batch = all_of(buffer_of(chain(), n_steps=3, gamma=0.1))
    # Episodes: rewards 1 2 3 4 | 5 6 | 7 8 9.
    expected = [1.23, 2.34, 3.4, 4, 5.6, 6, 7.89, 8.9, 9]
    np.testing.assert_allclose(batch.rewards.flatten(), expected, rtol=1e-6)
    np.testing.assert_allclose(batch.discounts.flatten(), [1e-3, 1e-3, 1e-2, 0.1, 1e-2, 0.1, 1e-3, 1e-2, 0.1], rtol=1e-6)
    assert batch.next_observations.flatten().tolist() == [2.5, 3.5, 3.5, 3.5, 5.5, 5.5, 8.5, 8.5, 8.5]
    # Only a terminal last step ends it; at the time limit and at the end of the data the next value counts.
    assert batch.dones.flatten().tolist() == [0, 1, 1, 1, 0, 0, 0, 0, 0]
    assert batch.observations.flatten().tolist() == list(range(9))


def test_n_step_returns_equal_sb3s():
    dataset = load_dataset("bundled:pendulum-mixed-v0")
    n = 1000
    theirs = NStepReplayBuffer(n, dataset.observation_space, dataset.action_space, "cpu", n_steps=5, gamma=0.9)
    ours = buffer_of(dataset, n_steps=5, gamma=0.9)
    for name in ("observations", "next_observations", "actions", "rewards", "dones", "timeouts"):
        getattr(theirs, name)[:] = getattr(ours, name)[:n].reshape(getattr(theirs, name).shape)
    theirs.pos, theirs.full = 0, True
    rows = np.arange(n - 5)
    for name, a, b in zip(theirs.sample(1)._fields, ours.get(rows), theirs._get_samples(rows), strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_targets_use_the_discounts(monkeypatch):
    """With n steps the value of the last state counts gamma^n, not gamma."""
    seen = []
    original = mixed_target_q_values
    monkeypatch.setattr(TARGET, lambda *args: seen.append(args[3]) or original(*args))
    model = BEAR(
        "MlpPolicy", None, chain(), n_steps=3, gamma=0.5, policy_kwargs=TINY, warmup_fraction=0, batch_size=32, device="cpu"
    )
    model.learn(1)
    assert set(seen[0].flatten().tolist()) <= {0.5, 0.25, 0.125}
    assert seen[0].shape == (32, 1)


def test_reward_normalisation_equals_vec_normalizes():
    dataset = load_dataset("bundled:pendulum-mixed-v0")
    env = VecNormalize(make_vec_env("Pendulum-v1"), gamma=0.9, norm_obs=False)
    set_moments(env.ret_rms, running_returns(dataset, 0.9))
    ours = buffer_of(dataset, gamma=0.9, normalize_rewards=True)
    rows = np.arange(0, 30_000, 7)
    for name, a, b in zip(ours.get(rows)._fields, ours.get(rows), buffer_of(dataset, gamma=0.9).get(rows, env), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5, err_msg=name)
    assert not np.allclose(ours.get(rows).rewards, buffer_of(dataset).get(rows).rewards)


def test_running_returns_by_hand():
    np.testing.assert_allclose(running_returns(chain(), 0.1), [1, 2.1, 3.21, 4.321, 5, 6.5, 7, 8.7, 9.87])


def test_contradicting_normalisations_are_refused():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    for kwargs, word in (
        ({"normalize_observations": True}, "normalize_observations=True and a VecNormalize"),
        ({"replay_buffer_kwargs": {"normalize_rewards": True}}, "normalize_rewards=True and a VecNormalize"),
    ):
        with pytest.raises(ValueError, match=word):
            BEAR("MlpPolicy", env, "bundled:pendulum-mixed-v0", policy_kwargs=TINY, **kwargs).learn(1)
    with pytest.raises(ValueError, match="n_steps=0"):
        buffer_of(chain(), n_steps=0)


def of_kind(kind: str) -> OfflineDataset:
    """Datasets of several types of numbers."""
    rng = np.random.default_rng(0)
    n = 40
    arrays = make_arrays(n)
    if kind == "vectors":
        return load_dataset(arrays)
    image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
    images = rng.integers(0, 256, (n, *image.shape), dtype=np.uint8)
    if kind == "images":
        content = {"observations": images, "next_observations": images[::-1], "observation_space": image}
    else:
        space = spaces.Dict({"camera": image, "joints": spaces.Box(-9, 9, (3,), np.float64), "mode": spaces.Discrete(5)})
        state = {"camera": images, "joints": rng.normal(size=(n, 3)), "mode": rng.integers(0, 5, n)}
        content = {
            "observations": state,
            "next_observations": {key: value[::-1] for key, value in state.items()},
            "observation_space": space,
        }
    return load_dataset(arrays | content)


@pytest.mark.parametrize("kind", ["vectors", "images", "dict"])
def test_batches_hold_what_the_dataset_does(kind):
    dataset = of_kind(kind)
    space = dataset.observation_space
    if kind != "vectors":
        channel_first = spaces.Box(0, 255, (3, 36, 36), np.uint8)
        space = channel_first if kind == "images" else spaces.Dict({**space.spaces, "camera": channel_first})
    batch = OfflineReplayBuffer(dataset, space, dataset.action_space, device="cpu").get(np.array([3, 0, 3]))

    def assert_rows(got, source, layout):
        if isinstance(layout, spaces.Dict):
            assert got.keys() == layout.spaces.keys()
            for key in got:
                assert_rows(got[key], source[key], layout[key])
        else:
            wanted = source[[3, 0, 3]]
            wanted = wanted.transpose(0, 3, 1, 2) if wanted.ndim == 4 else wanted
            np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-6)
            assert got.dtype == (
                th.uint8 if wanted.dtype == np.uint8 else th.float32 if wanted.dtype.kind == "f" else th.int64
            )

    assert_rows(batch.observations, dataset.observations, space)
    assert_rows(batch.next_observations, dataset.next_observations, space)


def test_the_dataset_is_never_changed():
    """Neither its arrays nor where they are; in memory the buffer's observations are the dataset's own."""
    dataset = load_dataset(make_arrays())
    before = {name: (getattr(dataset, name), getattr(dataset, name).copy()) for name in ARRAY_FIELDS}
    buffer = buffer_of(dataset)
    BEAR("MlpPolicy", None, dataset, policy_kwargs=TINY, warmup_fraction=0, device="cpu").learn(2)
    for name, (array, values) in before.items():
        assert getattr(dataset, name) is array, name
        np.testing.assert_array_equal(array, values)
    for name in ("observations", "next_observations"):
        assert np.shares_memory(getattr(buffer.columns, name).numpy(), getattr(dataset, name))
        assert not getattr(dataset, name).flags.writeable


def test_is_sb3s_replay_buffer_and_does_not_grow():
    buffer = buffer_of(chain())
    assert isinstance(buffer, ReplayBuffer)
    assert buffer.size() == 9
    assert buffer.rewards.shape == (9, 1)
    assert buffer.timeouts.flatten().tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert buffer.dones.flatten().tolist() == [0, 0, 0, 1, 0, 1, 0, 0, 0]
    with pytest.raises(RuntimeError, match="does not grow"):
        buffer.add(None, None, None, None, None, None)


def test_moments_of_mapped_parts(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(5.0, 3.0, (1000, 4))
    np.save(tmp_path / "x.npy", values)
    monkeypatch.setattr(mapped, "PART", 1000)
    for source in (values, np.load(tmp_path / "x.npy", mmap_mode="r")):
        rms = set_moments(VecNormalize(make_vec_env("Pendulum-v1")).obs_rms, source)
        np.testing.assert_allclose(rms.mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(rms.var, values.var(axis=0), rtol=1e-12)
        assert rms.count == 1000


# Memory-mapped.


@pytest.fixture
def uncompressed(tmp_path, monkeypatch):
    """A dataset and its uncompressed file, which is large enough to be mapped here."""
    monkeypatch.setattr(npz, "MAP_FROM", 1)

    def write(dataset: OfflineDataset):
        save_dataset(dataset, tmp_path / "x.npz", compress=False)
        return load_dataset(tmp_path / "x.npz")

    return write


@pytest.mark.parametrize("n_steps", [1, 3])
@pytest.mark.parametrize("kind", ["vectors", "images", "dict"])
def test_mapped_batches_equal_those_in_memory(uncompressed, kind, n_steps):
    dataset = of_kind(kind)
    on_disk = uncompressed(dataset)
    assert isinstance(on_disk.actions, np.memmap)
    ours, theirs = buffer_of(on_disk, n_steps=n_steps), buffer_of(dataset, n_steps=n_steps)
    assert isinstance(ours.columns.actions, np.memmap)
    assert isinstance(theirs.columns.actions, th.Tensor)
    assert_same_batches(all_of(ours), all_of(theirs))
    np.testing.assert_array_equal(on_disk.episode_returns(), dataset.episode_returns())


def test_arrays_in_fortran_order_are_mapped_too(tmp_path, monkeypatch):
    """numpy writes an array in the order that it has in memory: a transposed one, or the columns of a table, in this one."""
    monkeypatch.setattr(npz, "MAP_FROM", 1)
    observations = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    dataset = chain(
        observations=observations, next_observations=observations, observation_space=spaces.Box(-np.inf, np.inf, (3,))
    )
    arrays = {name: getattr(dataset, name) for name in ARRAY_FIELDS} | {"observations": np.asfortranarray(observations)}
    np.savez(tmp_path / "x.npz", **arrays)
    on_disk = load_dataset(tmp_path / "x.npz", BOX)
    assert isinstance(on_disk.observations, np.memmap)
    assert_same_batches(all_of(buffer_of(on_disk)), all_of(buffer_of(dataset)))


def test_small_and_compressed_files_are_read(tmp_path, monkeypatch):
    dataset = chain()
    save_dataset(dataset, tmp_path / "small.npz", compress=False)
    assert not isinstance(load_dataset(tmp_path / "small.npz").actions, np.memmap)
    monkeypatch.setattr(npz, "MAP_FROM", 1)
    save_dataset(dataset, tmp_path / "compressed.npz")
    assert not isinstance(load_dataset(tmp_path / "compressed.npz").actions, np.memmap)


def test_training_on_a_mapped_file_equals_training_in_memory(uncompressed):
    dataset = load_dataset("bundled:pendulum-mixed-v0")
    weights = []
    for source in (dataset, uncompressed(dataset)):
        model = BEAR(
            "MlpPolicy", "Pendulum-v1", source, seed=0, policy_kwargs=TINY, warmup_fraction=0.4, device="cpu"
        ).learn(5)
        weights.append(th.cat([parameter.flatten() for parameter in model.policy.parameters()]))
    assert th.equal(*weights)


def test_mapped_arrays_of_the_users_own(tmp_path):
    """numpy.load(..., mmap_mode="r") is enough, in double precision too; nothing is copied into memory."""
    dataset = chain()
    arrays = {name: getattr(dataset, name) for name in ("observations", "next_observations", "actions", "rewards")}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.float64))
    source = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays} | {
        "terminations": dataset.terminations,
        "truncations": dataset.truncations,
        "action_space": BOX,
    }
    loaded = load_dataset(source)
    assert all(isinstance(getattr(loaded, name), np.memmap) for name in arrays)
    assert loaded.rewards.dtype == np.float64
    batch = all_of(buffer_of(loaded))
    assert_same_batches(batch, all_of(buffer_of(dataset)))


def test_copies_of_mapped_arrays_are_in_memory(tmp_path):
    """numpy's copies of a mapped array are of its class too, and so is what a copy-on-write mapping keeps in memory."""
    np.save(tmp_path / "x.npy", np.zeros((9, 1)))
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.save(tmp_path / "whole.npy", np.zeros((9, 1), np.int64))
    whole = np.load(tmp_path / "whole.npy", mmap_mode="r")
    changed = np.load(tmp_path / "x.npy", mmap_mode="c")
    changed[3] = 0.5
    dataset = chain(actions=changed, rewards=on_disk.astype(np.float32), terminations=on_disk[:, 0], truncations=whole)
    for name in ("actions", "rewards", "terminations", "truncations"):
        assert not isinstance(getattr(dataset, name), np.memmap), name
    assert changed[3] == dataset.actions[3] == 0.5
    assert not isinstance(chain(actions=whole).actions, np.memmap)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_wrong_values_of_a_mapped_array_are_named(tmp_path, monkeypatch, value):
    monkeypatch.setattr(mapped, "PART", 8)  # two rows
    rewards = np.ones(9, np.float32)
    rewards[7] = value
    np.save(tmp_path / "rewards.npy", rewards)
    with pytest.raises(DatasetError, match="rewards row 7 is not finite"):
        chain(rewards=np.load(tmp_path / "rewards.npy", mmap_mode="r"))
    actions = np.zeros((9, 1), np.float32)
    actions[8] = 3.0
    np.save(tmp_path / "actions.npy", actions)
    with pytest.raises(DatasetError, match="actions row 8 is"):
        chain(actions=np.load(tmp_path / "actions.npy", mmap_mode="r"))


def test_pages_are_let_go_of(tmp_path):
    """What was read is not resident afterwards; without release() it would be."""
    array = np.random.default_rng(0).normal(size=(1 << 20, 4))
    np.save(tmp_path / "x.npy", array)
    source = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.arange(0, len(array), 64)

    def resident() -> int:
        return int(open("/proc/self/smaps").read().split("x.npy")[1].split("Rss:")[1].split()[0]) * 1024

    np.testing.assert_array_equal(mapped.take(source, rows), array[rows])
    assert resident() < array.nbytes / 100
    for part in mapped.parts(source):
        assert part.shape[1] == 4
    assert resident() < array.nbytes / 100
    np.array(source[rows])
    assert resident() > array.nbytes / 2


@pytest.mark.parametrize("row", [0, 1, 1000, 4999])
def test_take_asks_for_the_pages_of_the_rows(tmp_path, row):
    array = np.arange(5000 * 37, dtype=np.float32).reshape(5000, 37)
    np.savez(tmp_path / "x.npz", a=array, b=array + 1)
    for member, offset in (("a.npy", 0), ("b.npy", 1)):
        source = mapped.map_npz_member(tmp_path / "x.npz", ZipFile(tmp_path / "x.npz").getinfo(member))
        np.testing.assert_array_equal(mapped.take(source, np.array([row])), array[[row]] + offset)
        np.testing.assert_array_equal(mapped.take(source[:, 3], np.array([row])), array[[row], 3] + offset)


def test_truncated_mapped_files_are_named(uncompressed, tmp_path):
    uncompressed(chain())
    content = (tmp_path / "x.npz").read_bytes()
    assert len(content) < mmap.PAGESIZE * 4
    for length in range(0, len(content), 97):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(DatasetError, match=r"cut\.npz: "):
            load_dataset(tmp_path / "cut.npz")


def test_what_is_saved_is_sb3s_own(tmp_path):
    """SAC goes on filling it; the dataset comes back, a cut episode as a truncated one."""
    dataset = chain()
    model = BEAR("MlpPolicy", None, dataset, policy_kwargs=TINY, n_steps=2, device="cpu")
    model.save_replay_buffer(tmp_path / "buffer")
    sac = SAC("MlpPolicy", model.get_env(), buffer_size=100, device="cpu", policy_kwargs={"net_arch": [8]})
    sac.load_replay_buffer(tmp_path / "buffer.pkl")
    assert type(sac.replay_buffer) is ReplayBuffer
    sac.replay_buffer.add(*np.zeros((2, 1, 1)), np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    back = load_dataset(tmp_path / "buffer.pkl")
    for name in ("observations", "next_observations", "rewards", "terminations", "episode_ends"):
        np.testing.assert_array_equal(getattr(back, name), getattr(dataset, name))
    np.testing.assert_allclose(back.actions, dataset.actions, atol=1e-5)
    assert np.flatnonzero(back.truncations).tolist() == [5, 8]


def test_a_failed_save_of_the_buffer_leaves_the_old_file(tmp_path, monkeypatch):
    model = BEAR("MlpPolicy", None, chain(), policy_kwargs=TINY, device="cpu")
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    before = (tmp_path / "buffer.pkl").read_bytes()

    def fail(file, *_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("sb3_pg_extras.offline.offline_algorithm.save_to_pkl", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save_replay_buffer(tmp_path / "buffer.pkl")
    assert (tmp_path / "buffer.pkl").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_sac_has_its_own_n_steps():
    model = BEAR("MlpPolicy", "Pendulum-v1", "bundled:pendulum-mixed-v0", policy_kwargs=TINY, device="cpu")
    assert model.n_steps == 3 and model.to_sac(buffer_size=100).n_steps == 1
    sac = model.to_sac(buffer_size=100, n_steps=2)
    assert isinstance(sac.replay_buffer, NStepReplayBuffer)
    assert BEAR.from_sac(sac).n_steps == 3


def test_vec_normalize_scales_n_step_returns():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.ret_rms.var, env.clip_reward = np.array(4.0), 1.0  # single rewards would be clipped
    raw, scaled = (buffer_of(chain(), n_steps=3, gamma=0.1).get(np.arange(9), env=e).rewards for e in (None, env))
    th.testing.assert_close(scaled, raw / 2, rtol=1e-6, atol=0)


def test_normalised_rewards_are_clipped_as_vec_normalizes():
    assert buffer_of(chain(), normalize_rewards=True).scaled_rewards(np.array([1e9, -1e9])).tolist() == [10.0, -10.0]


def test_n_step_returns_are_those_of_normalised_rewards():
    raw, scaled = (all_of(buffer_of(chain(), n_steps=3, gamma=0.1, normalize_rewards=flag)) for flag in (False, True))
    scale = running_returns(chain(), 0.1).std()
    th.testing.assert_close(scaled.rewards, raw.rewards / scale, rtol=1e-5, atol=0)
    assert scale > 1.5


def test_vec_normalize_clips_single_rewards_and_leaves_them_where_it_does_not_normalise():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.ret_rms.var, env.clip_reward = np.array(4.0), 1.0
    rows, raw = np.arange(9), chain().rewards[:, None]
    np.testing.assert_allclose(buffer_of(chain()).get(rows, env).rewards, np.clip(raw / 2, -1, 1), rtol=1e-6)
    env.norm_reward = False
    for n_steps in (1, 3):
        buffer = buffer_of(chain(), n_steps=n_steps)
        th.testing.assert_close(buffer.get(rows, env).rewards, buffer.get(rows).rewards, rtol=0, atol=0)


def test_vec_normalize_normalises_both_observations():
    env = VecNormalize(DummyVecEnv([lambda: DatasetEnv(chain())]), norm_reward=False)
    env.obs_rms.mean, env.obs_rms.var = np.array([2.0]), np.array([4.0])
    batch = buffer_of(chain()).get(np.arange(9), env)
    np.testing.assert_allclose(batch.observations.flatten(), (np.arange(9) - 2) / 2, atol=1e-6)
    np.testing.assert_allclose(batch.next_observations.flatten(), (np.arange(9) - 1.5) / 2, atol=1e-6)


def test_all_rows_are_drawn():
    indices = buffer_of(chain()).sample(1000, generator=th.Generator().manual_seed(0)).indices
    assert sorted(set(indices.tolist())) == list(range(9))


def test_the_buffer_itself_is_a_dataset_again():
    """An end that is terminal and at a time limit, too, stays terminal; and no end is of unknown meaning."""
    dataset = chain(terminations=np.arange(9) == 3, truncations=np.isin(np.arange(9), [3, 5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = load_dataset(buffer_of(dataset))
    assert np.flatnonzero(back.terminations).tolist() == [3]
    assert np.flatnonzero(back.truncations).tolist() == [5]


def test_a_flag_of_both_kinds_is_no_timeout():
    dataset = chain(terminations=np.arange(9) == 3, truncations=np.isin(np.arange(9), [3, 5]))
    assert buffer_of(dataset).timeouts.flatten().tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0]
    assert pytest.approx(buffer_of(dataset).dones.sum()) == 2
