"""The progress bar of a load: shown for slow loads, absent with verbose=0, and advanced by what has been read."""

from pathlib import Path

import minari
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TINY, make_arrays
from five_episodes import ACTION_SPACE, FIXTURES, FLAT, IMITATION, fill, frames, write, write_robomimic
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl

from sb3_pg_extras import BEAR, DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets import progress, save_dataset
from sb3_pg_extras.datasets.progress import CountedFile, advance, progress_bar, track


class Recorder(progress.tqdm):
    """A bar that notes its updates."""

    made: list["Recorder"] = []  # noqa: RUF012

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.moves: list[float] = []
        self.made.append(self)

    def update(self, n=1):
        self.moves.append(n)
        return super().update(n)


@pytest.fixture
def bars(monkeypatch) -> list[Recorder]:
    """The bars that were made, which appear at once."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "tqdm", Recorder)
    Recorder.made = []
    return Recorder.made


def npz(folder: Path) -> Path:
    save_dataset(OfflineDataset(**make_arrays(2000)), folder / "x.npz")
    return folder / "x.npz"


def replay_buffer(folder: Path) -> Path:
    # Arrays as large as these are read one by one.
    buffer = ReplayBuffer(50_000, spaces.Box(-np.inf, np.inf, (1,)), spaces.Box(0, 10, (1,)), "cpu")
    fill(buffer, 100)
    save_to_pkl(folder / "x.pkl", buffer)
    return folder / "x.pkl"


def written_by_minari(folder: Path, data_format: str = "hdf5") -> str:
    save_dataset(OfflineDataset(**make_arrays()), "minari:made/up-v0", data_format=data_format)
    return "minari:made/up-v0"


def parquet(folder: Path) -> Path:
    for number in range(4):
        pq.write_table(frames().slice(3 * number, 3), folder / f"{number}.parquet")
    return folder


FORMATS = {
    "npz": npz,
    "replay buffer": replay_buffer,
    "d4rl": lambda folder: write(folder / "x.hdf5", FLAT),
    "d4rl in chunks": lambda folder: write(folder / "x.hdf5", FLAT, chunks=True, compression="gzip"),
    "robomimic": lambda folder: write_robomimic(folder / "x.hdf5"),
    "d3rlpy": lambda folder: FIXTURES / "d3rlpy_discrete.h5",
    "minari": written_by_minari,
    "minari arrow": lambda folder: written_by_minari(folder, "arrow"),
    "a MinariDataset": lambda folder: minari.load_dataset(written_by_minari(folder).removeprefix("minari:")),
    "imitation": lambda folder: IMITATION,
    "parquet": parquet,
}


@pytest.mark.filterwarnings("ignore:.*(set to None|env_spec is None)")
@pytest.mark.parametrize("name", FORMATS)
def test_a_bar_for_each_format(name, tmp_path, bars, capsys, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    space = ACTION_SPACE if name in ("imitation", "parquet") else None
    source = FORMATS[name](tmp_path)
    quiet = load_dataset(source, space, verbose=0)
    assert (capsys.readouterr().err, bars) == ("", [])
    # Only the last file is kept.
    save_dataset(OfflineDataset(**make_arrays(3)), tmp_path.with_suffix(".npz"))
    load_dataset(tmp_path.with_suffix(".npz"), verbose=0)
    loud = load_dataset(source, space)
    np.testing.assert_array_equal(loud.actions, quiet.actions)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Loading" in captured.err
    assert "100%" in captured.err
    (bar,) = bars
    # The last move fills it; those before came from the reader.
    *moves, _ = [move for move in bar.moves if move > 0]
    assert len(moves) >= 3
    assert bar.n == pytest.approx(bar.total)
    if not name.startswith(("d4rl", "robomimic", "d3rlpy", "imitation")):  # of which some bytes are not read
        assert sum(bar.moves[:-1]) >= 0.9 * bar.total
    # What the cache still has is not loaded again.
    if name != "a MinariDataset":
        assert load_dataset(source, space) is loud
        assert len(bars) == 1


def test_large_arrays_move_the_bar_by_rows(tmp_path, bars, monkeypatch):
    """1000 rows of 2 float32 in parts of 800 bytes: a hundred rows each."""
    n = 1000
    arrays = {
        "observations": np.arange(2 * n, dtype=np.float32).reshape(n, 2),
        "actions": np.zeros((n, 1), np.float32),
        "rewards": np.zeros(n, np.float32),
        "terminals": np.arange(n) == n - 1,
    }
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.hdf5_arrays.PART", 800)
    dataset = load_dataset(write(tmp_path / "x.hdf5", arrays))
    np.testing.assert_array_equal(dataset.observations, arrays["observations"])
    (bar,) = bars
    # Terminals 1000 bytes in 2 parts, observations 8000 in 10, actions and rewards 4000 in 5 each.
    assert bar.moves[:-1] == [800, 200] + [800] * 20
    # In chunks a part is never less than one, and whole ones.
    bars.clear()
    dataset = load_dataset(write(tmp_path / "y.hdf5", arrays, chunks=True, maxshape=None))
    np.testing.assert_array_equal(dataset.observations, arrays["observations"])


def test_parts_are_whole_chunks(tmp_path, bars, monkeypatch):
    arrays = {"terminals": np.ones((100, 1), np.uint8), "actions": np.zeros((100, 1), np.uint8)}
    arrays |= {"rewards": np.zeros(100, np.uint8), "observations": np.arange(100, dtype=np.uint8)[:, np.newaxis]}
    with_chunks = {name: array.reshape(100, 1) for name, array in arrays.items()}
    monkeypatch.setattr("sb3_pg_extras.datasets.readers.hdf5_arrays.PART", 50)
    dataset = load_dataset(write(tmp_path / "x.hdf5", with_chunks, chunks=(30, 1)))
    np.testing.assert_array_equal(dataset.observations, arrays["observations"])
    # 100 rows in chunks of 30 take 120 bytes; parts of two chunks: 60 rows and 40.
    assert bars[0].moves[:2] == [72, 48]


def test_short_loads_show_nothing(tmp_path, capsys):
    load_dataset(npz(tmp_path))
    assert capsys.readouterr().err == ""


def test_the_bar_is_closed_when_the_load_fails(tmp_path, bars):
    path = npz(tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DatasetError):
        load_dataset(path)
    assert bars[0].disable  # closed
    assert bars[0].n < bars[0].total
    moves = list(bars[0].moves)
    advance(10)
    assert bars[0].moves == moves  # nothing moves it any more


@pytest.mark.parametrize("verbose", [0, 1])
def test_algorithms_are_as_quiet_as_their_verbose(tmp_path, bars, verbose):
    path = npz(tmp_path)
    BEAR("MlpPolicy", None, dataset=str(path), policy_kwargs=TINY, verbose=verbose)
    assert len(bars) == verbose
    save_dataset(OfflineDataset(**make_arrays(50)), path)
    BEAR("MlpPolicy", None, dataset=make_arrays(), policy_kwargs=TINY, verbose=verbose).set_dataset(str(path))
    assert len(bars) == 2 * verbose


def test_moves_by_hand(bars, tmp_path, monkeypatch):
    advance(10)  # without a bar: nothing
    (tmp_path / "x").write_bytes(b"0123\n56789")
    with progress_bar("x", 100):
        assert list(track("abcd", 4, share=0.5)) == ["a", "b", "c", "d"]
        with open(tmp_path / "x", "rb") as raw:
            file = CountedFile(raw)
            assert file.readline() == b"0123\n"
            assert file.read(2) == b"56"
            monkeypatch.setattr(progress, "PART", 1)
            assert file.read(2) == b"78"
            assert file.tell() == 9
            assert file.read(5) == b"9"
            assert file.read() == b""
        advance(1000)  # never past its end
        assert bars[0].moves == [12.5] * 4 + [5, 2, 1, 1, 1, 40]
    assert bars[0].n == 100
