"""``sb3-pg-extras collect``: datasets of agents of the zoo, also after a crash."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import collect_envs
import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from conftest import TINY
from gymnasium import spaces
from rl_zoo3.utils import ALGOS, create_test_env, get_saved_hyperparams
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnvWrapper, VecNormalize, unwrap_vec_normalize

import sb3_pg_extras.zoo
import sb3_pg_extras.zoo.collect
from sb3_pg_extras import BEAR, DatasetError, OfflineDataset, load_dataset
from sb3_pg_extras.datasets.collect import from_steps, random_actions, roll, step_dtype
from sb3_pg_extras.zoo.collect import with_noise
from sb3_pg_extras.zoo.journal import Journal

TESTS = Path(__file__).parent
EPISODES = ["--algo", "random", "--env", "Episodes-v0", "--gym-packages", "collect_envs"]


@pytest.fixture
def cli(tmp_path, monkeypatch):
    """Run ``sb3-pg-extras`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["sb3-pg-extras", *arguments])
        sb3_pg_extras.zoo.main()

    return run


def flat(arrays) -> np.ndarray:
    """The values of a Dict observation side by side, or the observations as they are."""
    return np.concatenate(list(arrays.values()), axis=1) if isinstance(arrays, dict) else arrays


# --- rollouts ---------------------------------------------------------------------------------------------------------


class Counter(gym.Env):
    """Observation: steps since the reset, from ten times the number of the episode on. Terminates after `length` steps,
    unless it is truncated after 3, or both at once."""

    observation_space = spaces.Box(0, 100, (1,), np.float64)
    action_space = spaces.Box(-2, 2, (1,))

    def __init__(self, length: int) -> None:
        self.length, self.episode = length, -1

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        return np.array([10.0 * self.episode]), {}

    def step(self, action):
        self.t += 1
        return np.array([10.0 * self.episode + self.t]), self.t / 2, self.t == self.length, self.t == 3, {}


def counters():
    return DummyVecEnv([lambda: Counter(2), lambda: Counter(99), lambda: Counter(3)])


def test_steps_by_hand():
    starts = []

    def act(observations, episode_starts):
        starts.append(episode_starts.tolist())
        return -observations / 100

    steps = np.concatenate(list(roll(counters(), act, 4)))
    assert steps["observations"][:, :, 0].T.tolist() == [[0, 1, 10, 11], [0, 1, 2, 10], [0, 1, 2, 10]]
    assert steps["next_observations"][:, :, 0].T.tolist() == [[1, 2, 11, 12], [1, 2, 3, 11], [1, 2, 3, 11]]
    assert steps["rewards"].T.tolist() == [[0.5, 1, 0.5, 1], [0.5, 1, 1.5, 0.5], [0.5, 1, 1.5, 0.5]]
    np.testing.assert_array_equal(steps["actions"], -steps["observations"] / np.float32(100))
    # Terminated after two steps; truncated after three; both at once is terminated.
    assert steps["terminations"].T.tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    assert steps["truncations"].T.tolist() == [[0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert starts == [[True] * 3, [False] * 3, [True, False, False], [False, True, True]]


def test_runs_and_environments_follow_each_other_and_are_cut():
    env = counters()
    draw = random_actions(env)
    runs = [np.concatenate(list(roll(env, draw, n_steps))) for n_steps in (4, 1)]
    dataset = from_steps(runs, env.observation_space, env.action_space, "Counter-v0")
    # The second run is that of episodes 3, 2 and 2: after a reset, whatever the first one was doing.
    assert dataset.observations[:, 0].tolist() == [0, 1, 10, 11, 0, 1, 2, 10, 0, 1, 2, 10, 30, 20, 20]
    assert dataset.next_observations[-3:, 0].tolist() == [31, 21, 21]
    assert dataset.episode_ends.tolist() == [2, 4, 7, 8, 11, 12, 13, 14, 15]
    assert np.flatnonzero(dataset.terminations).tolist() == [1, 3, 10]
    assert np.flatnonzero(dataset.truncations).tolist() == [6]
    assert dataset.env_id == "Counter-v0"


def test_a_step_is_a_copy_of_what_the_next_one_changes_in_place():
    class InPlace(VecEnvWrapper):
        def reset(self):
            self.observations = self.venv.reset()
            return self.observations

        def step_wait(self):
            self.observations[:], *rest = self.venv.step_wait()
            return self.observations, *rest

    env = InPlace(DummyVecEnv([lambda: Counter(99)]))
    steps = np.concatenate(list(roll(env, random_actions(env), 3)))
    assert steps["observations"].flatten().tolist() == [0, 1, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_end_it_at_once(value):
    class Broken(Counter):
        def step(self, action):
            observation, reward, *rest = super().step(action)
            return observation, value if self.length == 2 and self.t == 2 else reward, *rest

    env = DummyVecEnv([lambda: Broken(99), lambda: Broken(2)])
    steps = roll(env, random_actions(env), 10)
    next(steps)
    with pytest.raises(DatasetError, match=f"rewards of environment 1 is not finite at step 1: {value}"):
        next(steps)


def test_spaces_that_datasets_cannot_hold_are_refused_before_the_first_step():
    class Tuples(Counter):
        observation_space = spaces.Tuple([spaces.Discrete(2)])

    env = DummyVecEnv([lambda: Counter(2)])
    env.observation_space = Tuples.observation_space
    with pytest.raises(DatasetError, match="observations: spaces of type Tuple"):
        step_dtype(env)
    env.observation_space = spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2)))
    with pytest.raises(DatasetError, match=r"observations\['a'\]: spaces of type Dict"):
        step_dtype(env)
    env = DummyVecEnv([lambda: Counter(2)])
    env.action_space = spaces.Dict(a=spaces.Discrete(2))
    with pytest.raises(DatasetError, match="actions: spaces of type Dict"):
        step_dtype(env)


# --- noise ------------------------------------------------------------------------------------------------------------


def test_gaussian_noise_is_in_units_of_the_scaled_action_and_clipped():
    space = spaces.Box(np.array([-1, 0], np.float32), np.array([3, 1], np.float32))
    actions = np.tile(np.array([[1.0, 0.9]], np.float32), (20000, 1))
    np.random.seed(0)
    noisy = with_noise(lambda *_: actions, space, 0.1)(None, np.ones(20000, bool))
    assert noisy.dtype == np.float32
    # Half the width of [-1, 3] is 2, of [0, 1] .5: standard deviations .2 and .05, the second cut two of them above.
    np.testing.assert_allclose(noisy[:, 0].std(), 0.2, rtol=0.03)
    np.testing.assert_allclose(noisy[:, 0].mean(), 1.0, atol=0.01)
    assert noisy[:, 1].max() == 1.0
    np.testing.assert_allclose((noisy[:, 1] == 1).mean(), 0.0228, atol=0.005)  # of a normal, beyond two deviations
    np.testing.assert_allclose(actions[0], [1.0, 0.9])


def test_discrete_noise_is_the_chance_of_a_random_action():
    space = spaces.Discrete(4)
    space.seed(0)
    np.random.seed(0)
    noisy = with_noise(lambda *_: np.zeros(20000, np.int64), space, 0.4)(None, np.ones(20000, bool))
    # A random action is 0 with a chance of a quarter.
    np.testing.assert_allclose(np.bincount(noisy) / 20000, [0.7, 0.1, 0.1, 0.1], atol=0.01)
    assert not with_noise(lambda *_: np.zeros(50), space, 0.0)(None, np.ones(50, bool)).any()


@pytest.mark.parametrize(
    ("space", "noise", "words"),
    [
        (spaces.Box(-1, 1, (1,)), -0.1, r"noise=-0\.1: expected"),
        (spaces.Box(-1, 1, (1,)), np.nan, "noise=nan: expected"),
        (spaces.Box(-np.inf, 1, (1,)), 0.1, r"noise=0\.1: needs real actions between finite bounds"),
        (spaces.Box(0, 9, (1,), np.int64), 0.1, r"noise=0\.1: needs real actions"),
        (spaces.Discrete(3), 1.5, r"noise=1\.5: .* at most 1"),
    ],
)
def test_noise_without_a_meaning_is_refused(space, noise, words):
    with pytest.raises(ValueError, match=words):
        with_noise(lambda *_: None, space, noise)


# --- the journal ------------------------------------------------------------------------------------------------------

PAIR = np.dtype([("rewards", np.float32, (2,))])


def pairs(*values: float) -> np.ndarray:
    return np.array([((value, -value),) for value in values], PAIR)


def test_a_journal_goes_on_without_the_torn_last_step(tmp_path):
    folder = tmp_path / "x.partial"
    first = Journal(folder, {"seed": 1}, PAIR)
    first.append(pairs(1))
    first.append(pairs(2))
    assert (first.n_runs, first.n_steps) == (0, 2)
    # Not closed: what a killed process leaves behind is what lies on the disk now.
    assert (folder / "run-0.bin").stat().st_size == 2 * PAIR.itemsize
    first.close()
    with open(folder / "run-0.bin", "ab") as file:
        file.write(pairs(3).tobytes()[:-1])
    Journal(folder, {"seed": 1}, PAIR).close()  # a run that ends before its first step
    third = Journal(folder, {"seed": 1}, PAIR)
    assert (third.n_runs, third.n_steps) == (2, 2)
    third.append(pairs(4))
    assert [run["rewards"].tolist() for run in third.runs()] == [[[1, -1], [2, -2]], [[4, -4]]]
    third.remove()
    assert not folder.exists()


def test_a_journal_of_other_arguments_is_not_added_to(tmp_path):
    Journal(tmp_path / "x", {"seed": 1, "noise": 0.1}, PAIR).close()
    with pytest.raises(DatasetError, match=r"x was begun with noise=0\.1, and now it is 0\.2: delete"):
        Journal(tmp_path / "x", {"seed": 1, "noise": 0.2}, PAIR)
    assert not (tmp_path / "x" / "run-1.bin").exists()
    Journal(tmp_path / "x", {"seed": 1, "noise": 0.1}, PAIR).remove()


def test_two_processes_do_not_write_one_journal(tmp_path):
    journal = Journal(tmp_path / "x", {}, PAIR)
    with pytest.raises(DatasetError, match="another process"):
        Journal(tmp_path / "x", {}, PAIR)
    journal.close()
    Journal(tmp_path / "x", {}, PAIR).close()


def test_a_journal_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "x").write_text("a file")
    with pytest.raises(DatasetError, match="x cannot be written"):
        Journal(tmp_path / "x", {}, PAIR)


# --- crashes ----------------------------------------------------------------------------------------------------------


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "sb3_pg_extras.zoo", "collect", *EPISODES, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def check_episodes(dataset: OfflineDataset) -> None:
    """What ``collect_envs.Episodes`` promises of each row, and no row twice."""
    (number, t), (next_number, next_t) = dataset.observations.T, dataset.next_observations.T
    odd = number % 2 == 1
    np.testing.assert_array_equal(next_number, number)
    np.testing.assert_array_equal(next_t, t + 1)
    np.testing.assert_array_equal(dataset.rewards, t)
    np.testing.assert_array_equal(dataset.terminations, odd & (t == 2))
    np.testing.assert_array_equal(dataset.truncations, ~odd & (t == 3))
    # A new number begins where, and only where, an episode ends; it begins at its start, and never comes back.
    ends = np.append(np.flatnonzero(np.diff(number)) + 1, len(dataset))
    np.testing.assert_array_equal(dataset.episode_ends, ends)
    np.testing.assert_array_equal(t, np.concatenate([np.arange(length) for length in dataset.episode_lengths()]))
    assert len(np.unique(number)) == dataset.n_episodes


@pytest.mark.parametrize(
    ("vec_env", "n_envs", "kills"), [("dummy", 3, 2), pytest.param("subproc", 2, 1, marks=pytest.mark.slow)]
)
def test_killed_again_and_again_nothing_is_lost(tmp_path, vec_env, n_envs, kills):
    arguments = ["-n", "3001", "--n-envs", str(n_envs), "-o", "x.npz", "--env-kwargs", "delay:0.0005", "--vec-env", vec_env]
    n_total = {3: 3003, 2: 3002}[n_envs]  # 3001, in whole steps
    dtype = step_dtype(DummyVecEnv([collect_envs.Episodes] * n_envs))
    journaled = []
    for run in range(kills):
        process, file = start(tmp_path, *arguments), tmp_path / "x.npz.partial" / f"run-{run}.bin"
        deadline = time.monotonic() + 60
        while not (file.exists() and file.stat().st_size > 50 * dtype.itemsize):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "x.npz").exists()
        content = file.read_bytes()
        journaled.append(np.frombuffer(content[: len(content) // dtype.itemsize * dtype.itemsize], dtype))
        with open(file, "ab") as torn:
            torn.write(b"torn")
    final = start(tmp_path, *arguments)
    stdout, stderr = final.communicate(timeout=120)
    assert final.returncode == 0, stderr
    n_journaled = n_envs * sum(len(run) for run in journaled)
    assert f"x.npz.partial: going on after {n_journaled} timesteps" in stdout
    assert f"{n_total}/{n_total}" in stderr
    dataset = load_dataset(tmp_path / "x.npz")
    assert len(dataset) == n_total
    check_episodes(dataset)
    for name in ("observations", "actions", "rewards", "terminations"):
        begun = np.concatenate([run[name][:, env] for run in journaled for env in range(n_envs)])
        np.testing.assert_array_equal(getattr(dataset, name)[:n_journaled], begun)
    assert dataset.env_id == "Episodes-v0"
    assert not (tmp_path / "x.npz.partial").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path):
    process, file = start(tmp_path, "-o", "x.npz", "--env-kwargs", "delay:0.001"), tmp_path / "x.npz.partial" / "run-0.bin"
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size > 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped: the same command goes on from x.npz.partial" in stderr
    assert "Traceback" not in stderr


def interrupt_after(monkeypatch, n_steps: int) -> None:
    """Ctrl-C when the journal has got ``n_steps`` more steps."""
    append, count = Journal.append, iter(range(n_steps))

    def interrupted(self, step):
        append(self, step)
        if next(count, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "append", interrupted)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--seed", "2"], "seed=1, and now it is 2"),
        (["-n", "40"], "n_timesteps=30, and now it is 40"),
        (["--n-envs", "3"], "n_envs=2, and now it is 3"),
        (["--env-kwargs", "delay:0.0"], r'env_kwargs=.*{}.*, and now it is .*"?delay'),
        (["--env", "CartPole-v1"], "env='Episodes-v0', and now it is 'CartPole-v1'"),
    ],
)
def test_changed_arguments_are_refused(cli, tmp_path, monkeypatch, changed, words):
    arguments = ["collect", *EPISODES, "-n", "30", "--n-envs", "2", "--seed", "1", "-o", "x.npz"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(SystemExit, match="stopped"):
            cli(*arguments)
    begun = {path.name: path.read_bytes() for path in (tmp_path / "x.npz.partial").glob("*.*")}
    with pytest.raises(SystemExit, match=f"x.npz.partial was begun with {words}.*: delete"):
        cli(*arguments, *changed)
    assert {path.name: path.read_bytes() for path in (tmp_path / "x.npz.partial").glob("*.*")} == begun
    cli(*arguments)
    check_episodes(load_dataset("x.npz"))


def test_death_between_the_last_step_and_the_file(cli, monkeypatch):
    arguments = ["collect", *EPISODES, "-n", "30", "--n-envs", "2", "-o", "x.npz"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 14)
        with pytest.raises(SystemExit, match="stopped"):
            cli(*arguments)
    cli(*arguments)
    dataset = load_dataset("x.npz")
    assert len(dataset) == 30
    check_episodes(dataset)


# --- wrong arguments --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "x.txt"], r"argument -o/--output: 'x\.txt': expected a name ending in \.npz"),
        (["-n", "0"], "argument --n-timesteps: 0: expected 1 or more"),
        (["--n-envs", "0"], "argument --n-envs: 0: expected 1 or more"),
        (["--seed", "-1"], "argument --seed: -1: expected 0 or more"),
        (["--noise", "0.1"], r"argument --noise: 0\.1: --algo random is noise already"),
        (["--env", "Nowhere-v0"], "argument --env: .*Nowhere.*--gym-packages"),
        (["--algo", "ppo", "-f", "nowhere"], "argument -f/--folder: 'nowhere': .*was not found: train one"),
        (["--stochastic", "--deterministic"], "not allowed with"),
    ],
)
def test_wrong_arguments_end_in_one_line_and_leave_nothing(cli, tmp_path, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        cli("collect", *EPISODES, "-o", "x.npz", *arguments)
    assert stopped.value.code == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_refused_first(cli, tmp_path):
    (tmp_path / "x.npz").write_bytes(b"precious")
    with pytest.raises(SystemExit, match=r"x\.npz exists already: delete it .* or use another -o"):
        cli("collect", *EPISODES, "-o", "x.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]
    assert (tmp_path / "x.npz").read_bytes() == b"precious"


@pytest.mark.parametrize("output", ["x.npz", "minari:test/mine-v0"])
@pytest.mark.parametrize("when", ["before the journal is opened", "while steps are taken"])
def test_an_output_that_appears_meanwhile_is_not_overwritten(cli, tmp_path, monkeypatch, when, output):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    target = tmp_path / ("x.npz" if output == "x.npz" else "minari/test/mine-v0")
    late = when == "while steps are taken"

    owner, name = (Journal, "append") if late else (sb3_pg_extras.zoo.collect, "create_test_env")
    original = getattr(owner, name)

    def write(*args: object, **kwargs: object) -> object:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"precious")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, write)
        with pytest.raises(SystemExit, match=r"exists already: delete it .* or use another -o"):
            cli("collect", *EPISODES, "-n", "20", "-o", output)
    assert target.read_bytes() == b"precious"
    (*journal,) = tmp_path.glob("*.partial")
    assert len(journal) == late
    if late:  # what was collected is not lost either
        target.unlink()
        cli("collect", *EPISODES, "-n", "20", "-o", output)
        check_episodes(load_dataset(output))


def test_a_journal_is_deleted_while_it_is_locked(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "x", {}, PAIR)
    rmtree = shutil.rmtree

    def another_process(folder: Path) -> None:
        with pytest.raises(DatasetError, match="another process"):
            Journal(folder, {}, PAIR)
        rmtree(folder)

    monkeypatch.setattr(shutil, "rmtree", another_process)
    journal.remove()
    assert not (tmp_path / "x").exists()


# --- agents of the zoo ------------------------------------------------------------------------------------------------

OFF_POLICY = {"policy": "MlpPolicy", "n_timesteps": 60, "learning_starts": 20, "policy_kwargs": {"net_arch": [8]}}
ON_POLICY = {"policy": "MlpPolicy", "n_timesteps": 64, "n_steps": 32, "policy_kwargs": {"net_arch": [8]}}
# Name of the agent: (algorithm, environment, hyper-parameters).
AGENTS = {
    "sac, normalised": ("sac", "Pendulum-v1", OFF_POLICY | {"normalize": True}),
    "ppo, normalised and stacked": (
        "ppo",
        "Pendulum-v1",
        ON_POLICY | {"batch_size": 32, "normalize": True, "frame_stack": 3},
    ),
    "ppo, gSDE": ("ppo", "Pendulum-v1", ON_POLICY | {"batch_size": 32, "use_sde": True}),
    "a2c, discrete": ("a2c", "CartPole-v1", ON_POLICY),
    "sac, Dict": ("sac", "Flip-v0", OFF_POLICY | {"policy": "MultiInputPolicy", "replay_buffer_class": "HerReplayBuffer"}),
    "ppo_lstm": (
        "ppo_lstm",
        "Pendulum-v1",
        {
            **ON_POLICY,
            "policy": "MlpLstmPolicy",
            "batch_size": 32,
            "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8},
        },
    ),
    "a2c, lighter": ("a2c", "Pendulum-v1", ON_POLICY | {"env_kwargs": {"g": 2.0}}),
    "bear": ("bear", "Pendulum-v1", {"policy": "MlpPolicy", "n_timesteps": 5, "warmup_fraction": 0, "policy_kwargs": TINY}),
}


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    """Each agent trained by the zoo, once: its folder."""
    folders: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name not in folders:
            algo, env, hyperparams = AGENTS[name]
            folder = folders[name] = tmp_path_factory.mktemp(algo)
            (folder / "conf.yml").write_text(yaml.safe_dump({env: hyperparams}))
            arguments = ["--algo", algo, "--env", env, "-f", str(folder), "-conf", str(folder / "conf.yml"), "--seed", "1"]
            arguments += ["--eval-freq", "-1", "--save-freq", "5", "--gym-packages", "collect_envs", "--verbose", "0"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", ["sb3-pg-extras", "train", *arguments])
                sb3_pg_extras.zoo.main()
        return folders[name]

    return train


def as_enjoy_does(folder: Path, algo: str, env_id: str, n_envs: int, n_steps: int, deterministic: bool):
    """The zoo's own loop, in its own environments: raw observations before each step, and the actions."""
    run = folder / algo / f"{env_id}_1"
    hyperparams, stats = get_saved_hyperparams(str(run / env_id), test_mode=True)
    env = create_test_env(
        env_id,
        n_envs,
        stats,
        seed=3,
        should_render=False,
        hyperparams=hyperparams,
        env_kwargs=hyperparams.get("env_kwargs"),
        vec_env_cls=DummyVecEnv,
    )
    agent = ALGOS[algo].load(run / f"{env_id}.zip", env if "replay_buffer_class" in hyperparams else None, seed=3)
    set_random_seed(3)
    normalizer = unwrap_vec_normalize(env)
    observations, state, starts = env.reset(), None, np.ones(n_envs, bool)
    rows = []
    for _ in range(n_steps):
        frames = observations if normalizer is None else normalizer.get_original_obs()
        actions, state = agent.predict(observations, state=state, episode_start=starts, deterministic=deterministic)
        rows.append((flat(frames), actions))
        observations, _, starts, _ = env.step(actions)
    return tuple(np.concatenate(np.stack(column, axis=1)) for column in zip(*rows, strict=True))


# Not gSDE's stochastic actions: unlike in enjoy, each episode explores by another function (the next test).
MODES = [
    (name, mode)
    for name in AGENTS
    for mode in ("--deterministic", "--stochastic")
    if (name, mode) != ("ppo, gSDE", "--stochastic")
]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_agents_act_as_in_enjoy(cli, agents, name, mode):
    algo, env, _ = AGENTS[name]
    folder = agents(name)
    arguments = ["--algo", algo, "--env", env, "-f", str(folder), "--seed", "3", "--n-envs", "2", mode]
    cli("collect", *arguments, "-n", "420", "-o", "x.npz", "--noise", "0")
    dataset = load_dataset("x.npz")
    observations, actions = as_enjoy_does(folder, algo, env, 2, 210, deterministic=mode == "--deterministic")
    # Pendulum's episodes have 200 steps, the others' are shorter: all of them begin anew in between.
    assert (dataset.terminations | dataset.truncations).sum() >= 2
    np.testing.assert_array_equal(dataset.actions, actions)
    # Of stacked observations the last frame is the newest.
    np.testing.assert_array_equal(flat(dataset.observations)[:, -observations.shape[1] :], observations.astype(np.float32))
    assert dataset.env_id == env


def test_gsde_explores_by_another_function_in_each_episode(cli, agents):
    arguments = ["--algo", "ppo", "--env", "Pendulum-v1", "-f", str(agents("ppo, gSDE")), "--stochastic"]
    cli("collect", *arguments, "-n", "400", "-o", "x.npz")
    dataset = load_dataset("x.npz")
    model = ALGOS["ppo"].load(next(agents("ppo, gSDE").glob("ppo/*/Pendulum-v1.zip")))
    means, _ = model.predict(dataset.observations, deterministic=True)
    # The noise is linear in the policy's features: one function fits one episode, not both.
    features = model.policy.mlp_extractor.forward_actor(th.tensor(dataset.observations)).detach().numpy()
    noise, inside = dataset.actions - means, np.abs(dataset.actions[:, 0]) < 2

    def residual(rows) -> float:
        rows = rows[inside[rows]]
        return np.abs(features[rows] @ np.linalg.lstsq(features[rows], noise[rows], rcond=None)[0] - noise[rows]).max()

    assert residual(np.arange(200)) < 1e-3
    assert residual(np.arange(200, 400)) < 1e-3
    assert residual(np.arange(400)) > 1e-2


def test_stored_observations_and_rewards_are_raw(cli, agents):
    folder = agents("sac, normalised")
    cli("collect", "--algo", "sac", "--env", "Pendulum-v1", "-f", str(folder), "-n", "450", "--n-envs", "2", "-o", "x.npz")
    dataset = load_dataset("x.npz")
    cosine, sine, velocity = dataset.observations.T
    np.testing.assert_allclose(cosine**2 + sine**2, 1, atol=1e-5)
    angle = np.arctan2(sine, cosine)
    expected = -(angle**2 + 0.1 * velocity**2 + 0.001 * dataset.actions[:, 0] ** 2)
    np.testing.assert_allclose(dataset.rewards, expected, atol=1e-3)
    # And the policy saw them normalised.
    normalizer = VecNormalize.load(
        str(folder / "sac" / "Pendulum-v1_1" / "Pendulum-v1" / "vecnormalize.pkl"),
        DummyVecEnv([lambda: gym.make("Pendulum-v1")]),
    )
    assert normalizer.obs_rms.count > 50
    model = ALGOS["sac"].load(folder / "sac" / "Pendulum-v1_1" / "Pendulum-v1.zip")
    actions, _ = model.predict(normalizer.normalize_obs(dataset.observations), deterministic=True)
    np.testing.assert_allclose(dataset.actions, actions, atol=1e-5)
    assert np.abs(model.predict(dataset.observations, deterministic=True)[0] - actions).max() > 1e-2
    # Truncated after 200 steps, and cut after 225, in each of the two environments.
    assert dataset.episode_ends.tolist() == [200, 225, 425, 450]
    assert np.flatnonzero(dataset.truncations).tolist() == [199, 424]
    assert not dataset.terminations.any()


def test_stacked_observations_stay_stacked(cli, agents):
    arguments = ["--algo", "ppo", "--env", "Pendulum-v1", "-f", str(agents("ppo, normalised and stacked"))]
    cli("collect", *arguments, "-n", "203", "-o", "x.npz")
    dataset = load_dataset("x.npz")
    frames = dataset.observations.reshape(203, 3, 3)
    assert dataset.observation_space.shape == (9,)
    for first in (0, 200):
        assert not frames[first, :2].any()
        assert not frames[first + 1, 0].any()
        np.testing.assert_array_equal(frames[first + 2, 0], frames[first, 2])
    # The step that ended the episode: its true last frame, after those before it.
    following = dataset.next_observations.reshape(203, 3, 3)
    np.testing.assert_array_equal(following[199, :2], frames[199, 1:])
    np.testing.assert_allclose((following[199, 2, :2] ** 2).sum(), 1, atol=1e-5)
    assert not np.array_equal(following[199, 2], frames[200, 2])


def test_arguments_of_the_environment_are_those_of_the_training(cli, agents):
    folder = agents("a2c, lighter")
    args = next(folder.glob("a2c/*/Pendulum-v1/args.yml"))
    trained = yaml.unsafe_load(args.read_text())
    # Hyper-parameters < command line of the training < command line.
    for name, of_training, flags, expected in (
        ("a", None, [], 2.0),
        ("b", {"g": 3.0}, [], 3.0),
        ("c", {"g": 3.0}, ["--env-kwargs", "g:5.0"], 5.0),
    ):
        args.write_text(yaml.dump(trained | {"env_kwargs": of_training}))
        cli("collect", "--algo", "a2c", "--env", "Pendulum-v1", "-f", str(folder), "-n", "100", "-o", f"{name}.npz", *flags)
        dataset = load_dataset(f"{name}.npz")
        # Pendulum: change of velocity = (1.5 g sin(angle) + 3 u) * 0.05, velocities clipped at 8.
        change = dataset.next_observations[:, 2] - dataset.observations[:, 2] - 0.15 * dataset.actions[:, 0]
        inside = (np.abs(dataset.next_observations[:, 2]) < 8) & (np.abs(dataset.observations[:, 1]) > 0.1)
        np.testing.assert_allclose((change / (0.075 * dataset.observations[:, 1]))[inside], expected, rtol=1e-3)
    args.write_text(yaml.dump(trained))


def test_checkpoints(cli, agents, capsys):
    folder = agents("bear")
    run = folder / "bear" / "Pendulum-v1_1"
    (run / "best_model.zip").write_bytes((run / "Pendulum-v1.zip").read_bytes())
    arguments = ["collect", "--algo", "bear", "--env", "Pendulum-v1", "-f", str(folder), "-n", "4"]
    for flags, file in (
        (["--load-checkpoint", "5"], "rl_model_5_steps.zip"),
        (["--load-last-checkpoint"], "rl_model_5_steps.zip"),
        (["--load-best"], "best_model.zip"),
        (["--exp-id", "1"], "Pendulum-v1.zip"),
    ):
        output = f"{flags[0].strip('-')}.npz"
        cli(*arguments, "-o", output, *flags)
        assert f"Loading {run / file}\n" in capsys.readouterr().out
        assert len(load_dataset(output)) == 4
    with pytest.raises(SystemExit):
        cli(*arguments, "-o", "x.npz", "--load-checkpoint", "7")
    assert re.search("error: argument -f/--folder: .*No model found.*rl_model_7_steps.zip", capsys.readouterr().err)


def test_noise_on_the_command_line(cli, agents):
    arguments = ["collect", "--algo", "sac", "--env", "Pendulum-v1", "-f", str(agents("sac, normalised")), "-n", "300"]
    cli(*arguments, "-o", "clean.npz")
    cli(*arguments, "-o", "noisy.npz", "--noise", "0.1")
    clean, noisy = load_dataset("clean.npz"), load_dataset("noisy.npz")
    np.testing.assert_array_equal(noisy.observations[0], clean.observations[0])
    first = noisy.actions[0] - clean.actions[0]
    assert 0 < abs(first[0]) < 1  # five standard deviations, in [-2, 2]


def test_discrete_noise_on_the_command_line(cli, agents):
    arguments = ["--algo", "a2c", "--env", "CartPole-v1", "-f", str(agents("a2c, discrete"))]
    cli("collect", *arguments, "-n", "600", "--n-envs", "2", "-o", "x.npz", "--noise", "0.5")
    dataset = load_dataset("x.npz")
    model = ALGOS["a2c"].load(next(agents("a2c, discrete").glob("a2c/*/CartPole-v1.zip")))
    others = dataset.actions != model.predict(dataset.observations, deterministic=True)[0]
    # Half of the actions are random, and half of those another one of the two.
    np.testing.assert_allclose(others.mean(), 0.25, atol=0.06)


def test_an_agent_that_changed_is_not_mixed_in(cli, agents, monkeypatch):
    folder = agents("bear")
    arguments = ["collect", "--algo", "bear", "--env", "Pendulum-v1", "-f", str(folder), "-n", "20", "-o", "x.npz"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(SystemExit, match="stopped"):
            cli(*arguments)
    model = folder / "bear" / "Pendulum-v1_1" / "Pendulum-v1.zip"
    before = model.read_bytes()
    BEAR.load(model, seed=0).save(model)
    try:
        with pytest.raises(SystemExit, match="begun with sha256 of the model="):
            cli(*arguments)
    finally:
        model.write_bytes(before)
    cli(*arguments)
    assert len(load_dataset("x.npz")) == 20


# --- random actions and outputs ---------------------------------------------------------------------------------------


def test_statistics_that_changed_are_not_mixed_in(cli, agents, monkeypatch):
    folder = agents("sac, normalised")
    arguments = ["collect", "--algo", "sac", "--env", "Pendulum-v1", "-f", str(folder), "-n", "20", "-o", "x.npz"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(SystemExit, match="stopped"):
            cli(*arguments)
    path = next(folder.glob("sac/*/Pendulum-v1/vecnormalize.pkl"))
    before = path.read_bytes()
    statistics = VecNormalize.load(str(path), DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    statistics.obs_rms.mean = statistics.obs_rms.mean + 1
    statistics.save(str(path))
    try:
        with pytest.raises(SystemExit, match="begun with sha256 of the statistics="):
            cli(*arguments)
    finally:
        path.write_bytes(before)


def test_random_actions_are_uniform_and_seeded(cli):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        cli("collect", "--algo", "random", "--env", "Pendulum-v1", "-n", "2000", "--seed", seed, "-o", f"{name}.npz")
    a, b, c = (load_dataset(f"{name}.npz") for name in "abc")
    np.testing.assert_array_equal(a.actions, b.actions)
    np.testing.assert_array_equal(a.observations, b.observations)
    assert not np.array_equal(a.actions, c.actions)
    quarters, _ = np.histogram(a.actions, [-2, -1, 0, 1, 2])
    np.testing.assert_allclose(quarters / 2000, 0.25, atol=0.04)
    # The first draw of the environment, its angle, is not the first of the actions.
    angle = np.arctan2(a.observations[0, 1], a.observations[0, 0])
    assert abs(angle / np.pi - a.actions[0, 0] / 2) > 1e-3


def test_minari_output(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    arguments = ["collect", *EPISODES, "-n", "30", "--n-envs", "2", "-o", "minari:episodes/random-v0"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 5)
        with pytest.raises(SystemExit, match="stopped"):
            cli(*arguments)
    assert (tmp_path / "minari-episodes-random-v0.partial" / "run-0.bin").exists()
    cli(*arguments)
    dataset = load_dataset("minari:episodes/random-v0")
    assert len(dataset) == 30
    check_episodes(dataset)
    assert dataset.env_id == "Episodes-v0"
    assert [path.name for path in tmp_path.iterdir()] == ["minari"]
    with pytest.raises(SystemExit, match="exists already"):
        cli(*arguments)


def test_what_was_collected_trains_bear(cli, agents):
    arguments = ["--algo", "sac", "--env", "Pendulum-v1", "-f", str(agents("sac, normalised")), "--noise", "0.2"]
    cli("collect", *arguments, "-n", "300", "--n-envs", "3", "-o", "x.npz")
    model = BEAR("MlpPolicy", "Pendulum-v1", dataset="x.npz", policy_kwargs=TINY, warmup_fraction=0, seed=0)
    model.learn(10)
    assert model.num_timesteps == 10


def test_arguments_are_kept_in_words(cli, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 2)
    with pytest.raises(SystemExit, match="stopped"):
        cli("collect", *EPISODES, "-o", "x.npz", "-n", "10")
    kept = json.loads((tmp_path / "x.npz.partial" / "arguments.json").read_text())
    assert kept["env"] == "Episodes-v0"
    assert kept["n_timesteps"] == 10
    assert kept["action_space"] == {"type": "Discrete", "n": 5, "start": 0}
