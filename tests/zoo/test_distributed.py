"""Searches and grids whose workers are killed: none of the work is lost, none is counted twice."""

import ast
import importlib.util
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import types
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import kills
import numpy as np
import optuna
import postgres
import pytest
from optuna.storages import JournalStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from warm_python import this_environment

from sb3_pg_extras import SingleStepA2C, load_dataset, save_dataset
from sb3_pg_extras.common.algorithm import WholeVecNormalize
from sb3_pg_extras.common.optional import MissingPackageError
from sb3_pg_extras.zoo import grid
from sb3_pg_extras.zoo import storage as shared
from sb3_pg_extras.zoo.jobs import run_missing
from sb3_pg_extras.zoo.storage import SharedStudy

optuna.logging.set_verbosity(optuna.logging.ERROR)
needs_postgres = pytest.mark.skipif(postgres.programs() is None, reason="PostgreSQL is not installed")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Clock:
    """The clock of a worker."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(shared.time, "monotonic", lambda: self.now)


@pytest.fixture(params=["journal", "database"])
def url(request, tmp_path) -> str:
    return str(tmp_path / "study.log") if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


def open_study(url: str, total: int | None = None, cls: type[SharedStudy] = SharedStudy) -> SharedStudy:
    """A worker's own view of the study."""
    storage = shared.open_storage(url)
    optuna.create_study(storage=storage, study_name="s", load_if_exists=True)
    return cls("s", storage, total, sampler=optuna.samplers.RandomSampler())


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def objective(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def optimize(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command as a user types it."""
    search = ["train", "--algo", "reinforce", "--env", "CartPole-v1", "-optimize"]
    return this_environment().run("sb3_pg_extras.zoo", *search, *arguments, folder=folder)


# -- heartbeats


def test_only_a_heartbeat_that_stands_still_for_the_grace_period_is_a_dead_worker(url, monkeypatch):
    worker, other = open_study(url), open_study(url)
    with_beat, without = worker.ask(), worker.ask()
    x = with_beat.suggest_float("x", 0, 1)
    worker.write_heartbeat(with_beat.number)
    clock = Clock(monkeypatch)
    other.retry_trials_of_dead_workers()  # first seen at 0
    clock.now = 59.0
    worker.write_heartbeat(with_beat.number)
    other.retry_trials_of_dead_workers()  # a new heartbeat, first seen at 59
    assert states(other) == ["RUNNING", "RUNNING"]
    clock.now = 61.0
    other.retry_trials_of_dead_workers()
    assert states(other) == ["RUNNING", "FAIL", "WAITING"]
    clock.now = 119.0
    other.retry_trials_of_dead_workers()
    assert states(other) == ["RUNNING", "FAIL", "WAITING"]
    clock.now = 120.0
    other.retry_trials_of_dead_workers()
    assert states(other) == ["FAIL", "FAIL", "WAITING", "WAITING"]
    assert [trial.system_attrs["retry_history"] for trial in other.trials[2:]] == [[without.number], [with_beat.number]]
    assert other.trials[3].params == {"x": x}


def test_a_running_trial_has_heartbeats(url, monkeypatch):
    monkeypatch.setattr(shared, "HEARTBEAT_INTERVAL", 0.01)
    study, beats = open_study(url), []

    def wait_for_three(trial: optuna.Trial) -> float:
        while len(beats) < 3:
            beat = study.get_trials()[trial.number].system_attrs.get(shared.HEARTBEAT)
            if beat is not None and beat not in beats:
                beats.append(beat)
        return 0.0

    n_threads = threading.active_count()
    study.optimize(wait_for_three, n_trials=1)
    assert [set(beat) for beat in beats] == [{"host", "pid", "time"}] * 3 and beats[0]["pid"] == os.getpid()
    assert threading.active_count() == n_threads


def test_two_workers_that_see_the_same_death_retry_it_once(url, monkeypatch):
    class Late(SharedStudy):
        """A worker whose view of the trials is from before the other one acts."""

        def get_trials(self, *args, **kwargs):
            trials = super().get_trials(*args, **kwargs)
            if clock.now > 0:
                first.retry_trials_of_dead_workers()
            return trials

    dead, first, late = open_study(url), open_study(url), open_study(url, cls=Late)
    clock = Clock(monkeypatch)
    dead.ask()
    for study in (first, late):
        study.retry_trials_of_dead_workers()
    clock.now = 61.0
    late.retry_trials_of_dead_workers()
    assert states(first) == ["FAIL", "WAITING"]


def test_a_trial_that_kills_its_workers_is_given_up_after_three_retries(url, monkeypatch):
    study = open_study(url)
    clock = Clock(monkeypatch)
    for _ in range(4):
        study.ask()
        study.retry_trials_of_dead_workers()
        clock.now += 61.0
        study.retry_trials_of_dead_workers()
    assert states(study) == ["FAIL"] * 4
    assert RetryHeartbeatStaleTrialCallback.retry_history(study.trials[3]) == [0, 1, 2]
    assert RetryHeartbeatStaleTrialCallback.retried_trial_number(study.trials[3]) == 0


def test_a_storage_that_is_away_for_a_moment_does_not_end_the_heartbeats(url, monkeypatch):
    study = open_study(url)
    trial = study.ask()
    with monkeypatch.context() as away:

        def fail(*args):
            raise optuna.exceptions.StorageInternalError("away")

        away.setattr(study.storage, "set_trial_system_attr", fail)
        study.write_heartbeat(trial.number)
    assert shared.HEARTBEAT not in study.trials[0].system_attrs
    study.write_heartbeat(trial.number)
    assert shared.HEARTBEAT in study.trials[0].system_attrs


# -- exactly as many trials as requested


def test_counted_trials_are_the_first_that_have_not_failed(tmp_path):
    study = open_study(str(tmp_path / "study.log"))
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING):
        value = 1.0 if state == TrialState.COMPLETE else None
        study.add_trial(optuna.create_trial(state=state, value=value))
    study.ask()  # takes the one that waits
    study.ask()
    for total, expected in ((3, [1, 2, 4]), (9, [1, 2, 4, 5])):
        study.max_total_trials = total
        assert [trial.number for trial in study.counted_trials()] == expected


@pytest.mark.parametrize("total", [1, 7])
def test_four_workers_at_once_run_exactly_what_was_asked(url, total):
    open_study(url)
    barrier = threading.Barrier(4)

    def worker() -> None:
        study = open_study(url, total)
        barrier.wait()
        study.optimize(objective)

    threads = [threading.Thread(target=worker) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = open_study(url, total)
    assert Counter(states(study))["COMPLETE"] == total
    assert set(states(study)) <= {"COMPLETE", "FAIL"}
    study.optimize(objective)  # and no more when the command is typed again
    assert Counter(states(study))["COMPLETE"] == total


def test_the_later_of_two_last_trials_is_given_up(url, monkeypatch):
    class Late(SharedStudy):
        def ask(self, *args, **kwargs):
            last.append(other.ask())
            return super().ask(*args, **kwargs)

    other, study, last = open_study(url), open_study(url, 1, Late), []
    # While this worker waits, the other one ends its trial.
    monkeypatch.setattr(shared.time, "sleep", lambda seconds: other.tell(last[0], 1.0))
    study.optimize(lambda trial: pytest.fail("one too many"))
    assert states(study) == ["COMPLETE", "FAIL"]


def test_a_worker_waits_for_the_others_and_does_again_what_the_dead_leave(url, monkeypatch, capsys):
    dead, study = open_study(url), open_study(url, 3)
    x = dead.ask().suggest_float("x", 0, 1)
    clock = Clock(monkeypatch)
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        clock.now += seconds

    monkeypatch.setattr(shared.time, "sleep", sleep)
    study.optimize(objective)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.trials[3].params == {"x": x} and study.trials[3].value == x
    assert sum(naps) == pytest.approx(61.0, abs=1.0)
    assert capsys.readouterr().out.count("Waiting for other workers to end trials 0\n") == 1


def test_without_a_total_a_worker_does_again_what_the_dead_leave_and_waits_for_nobody(url, monkeypatch):
    dead, study = open_study(url), open_study(url)
    dead.ask()
    clock = Clock(monkeypatch)
    study.optimize(objective, n_trials=1)
    assert states(study) == ["RUNNING", "COMPLETE"]
    clock.now = 61.0
    study.optimize(objective, n_trials=1)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].system_attrs["retry_history"] == [0]


def test_a_worker_that_was_taken_for_dead_goes_on_and_its_result_does_not_count(url, monkeypatch):
    study, other = open_study(url, 2), open_study(url)
    clock, values = Clock(monkeypatch), []

    def slept_through(trial: optuna.Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        if not values:
            # The other worker fails it and puts a new one in its place.
            for clock.now in (0.0, 61.0, 122.0):
                other.retry_trials_of_dead_workers()
        values.append(value)
        return value

    study.optimize(slept_through)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert len(values) == 3 and values[1] == values[0]


def test_errors_of_the_objective_are_not_swallowed(url):
    def wrong(trial: optuna.Trial) -> float:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        open_study(url, 2).optimize(wrong)


def test_a_search_of_one_worker_by_n_trials_leaves_what_the_zoo_leaves(tmp_path):
    arguments = ["--storage", "logs/study.log", "--study-name", "s", "--n-evaluations", "1", "--no-optim-plots"]
    result = optimize(tmp_path, *arguments, "-n", "300", "--eval-episodes", "1", "--n-trials", "2")
    assert result.returncode == 0, result.stderr
    (report,) = (tmp_path / "logs" / "reinforce").glob("report_CartPole-v1_2-trials-*.pkl")
    # The study in it finds the journal again, and does not judge trials by another process's clock.
    study = pickle.loads(report.read_bytes())
    assert states(study) == ["COMPLETE", "COMPLETE"]
    assert all(shared.HEARTBEAT in trial.system_attrs for trial in study.trials)
    assert study.seen == {}
    result = optimize(tmp_path, *arguments, "--max-total-trials", "0")
    assert result.returncode == 1
    assert result.stderr.endswith("sb3-pg-extras train: error: --max-total-trials 0: at least 1\n")


def test_nothing_private_of_optuna_is_imported():
    for node in ast.walk(ast.parse(Path(shared.__file__).read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            assert not any(part.startswith("_") for name in names for part in name.split("."))


# -- the journal file


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path):
    path = tmp_path / "study.log"
    study = open_study(str(path), 1)
    study.optimize(objective)
    whole = path.read_bytes()
    with open(path, "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"half of')
    study.max_total_trials = 2
    study.optimize(objective)
    assert states(open_study(str(path))) == ["COMPLETE", "COMPLETE"]
    assert path.read_bytes().startswith(whole + b'{"op_code":4,')
    assert b"half of" not in path.read_bytes()


def test_without_that_nobody_could_read_the_journal_any_more(tmp_path):
    path = tmp_path / "study.log"
    open_study(str(path), 1).optimize(objective)
    with open(path, "ab") as file:
        file.write(b'{"op_code":4,"worker_id":"12')
    upstream = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    upstream._storage._backend.append_logs([{}, {}])
    with pytest.raises(json.JSONDecodeError):
        upstream.get_trials()


def test_the_lock_of_a_dead_process_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shared, "LOCK_GRACE_PERIOD", 1)
    (tmp_path / "logs").mkdir()
    # With Optuna's own lock a relative path with a folder waits for ever.
    (tmp_path / "logs" / "study.log.lock").touch()
    with pytest.warns(UserWarning, match="grace_period"):
        study = open_study("logs/study.log", 1)
    study.optimize(objective)
    assert states(study) == ["COMPLETE"]


# -- wrong arguments


def test_a_storage_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"--storage study.txt: neither a journal file \(study.log\) nor the URL"):
        shared.open_storage("study.txt")


def test_postgresql_without_its_driver(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPackageError, match=r'psycopg is not installed: pip install "sb3-pg-extras\[search\]"'):
        shared.open_storage("postgresql://me@host/name")


def test_postgresql_is_reached_with_the_driver_that_the_extra_installs(monkeypatch):
    """SQLAlchemy 2.0 takes psycopg2 for a bare postgresql://."""
    urls = []
    monkeypatch.setattr(shared, "RDBStorage", lambda url, *_: urls.append(url))
    monkeypatch.setattr(shared, "require", lambda *_: None)
    shared.open_storage("postgresql://me:secret@host/name")
    assert urls == ["postgresql+psycopg://me:secret@host/name"]


def test_a_server_that_does_not_answer_ends_in_one_line_without_the_password(tmp_path):
    result = optimize(tmp_path, "--storage", "postgresql://me:secret@127.0.0.1:1/name")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("sb3-pg-extras train: error: --storage postgresql://me:***@127.0.0.1:1/name: cannot be reached")
    assert "Traceback" not in result.stderr and "secret" not in result.stderr


# -- workers killed with SIGKILL: ten of each in benchmarks/results/kills.csv


@pytest.mark.services
def test_a_killed_worker_of_a_search_on_a_journal_file(tmp_path):
    row = kills.kill_search(str(tmp_path / "study.log"), tmp_path, n_workers=2, n_trials=4)
    assert (row["finished"], row["lost"], row["twice"]) == (row["asked"], 0, 0)


@pytest.mark.slow
@pytest.mark.services
@needs_postgres
def test_a_killed_worker_of_a_search_on_postgresql(tmp_path):
    with postgres.postgres() as url:
        row = kills.kill_search(url, tmp_path, n_workers=2, n_trials=4)
    assert (row["finished"], row["lost"], row["twice"]) == (row["asked"], 0, 0)


@pytest.mark.services
@needs_ray
def test_a_killed_worker_of_a_grid_goes_on_to_the_same_weights(tmp_path):
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    row = kills.kill_grid(tmp_path / "killed", kills.undisturbed_weights(tmp_path / "undisturbed"))
    assert (row["finished"], row["lost"], row["twice"]) == (1, 0, 0)
    assert row["killed_at"] >= kills.KILL_AFTER


# -- the grid


@pytest.mark.slow
@pytest.mark.services
@needs_ray
def test_a_grid_on_a_cluster_by_its_address(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Without a token of Ray's in the home folder.
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    head = ["start", "--head", "--node-ip-address", "127.0.0.1", "--port", str(port), "--num-cpus", "1", "--block"]
    with open(tmp_path / "head.txt", "wb") as output:
        cluster = subprocess.Popen(
            [sys.executable, "-c", "from ray.scripts.scripts import main; main()", *head, "--include-dashboard", "false"],
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        kills.wait_for(lambda: b"runtime started" in (tmp_path / "head.txt").read_bytes(), "the cluster")
        assert kills.start_grid(tmp_path, "--address", f"127.0.0.1:{port}", "-n", "205").wait(kills.PATIENCE) == 0
    finally:
        cluster.terminate()
        cluster.wait()
    assert len((tmp_path / "grid.csv").read_text().splitlines()) == 2


def test_ray_is_started_here_unless_an_address_is_given(monkeypatch):
    started = []
    fake = types.SimpleNamespace(init=lambda address, **kwargs: started.append((address, kwargs.get("num_cpus", "its own"))))
    monkeypatch.setattr(grid, "require", lambda module, extra: fake)
    grid.start_ray("local", 3)
    grid.start_ray("auto", 3)
    assert started == [("local", 3), ("auto", "its own")]


@needs_ray
def test_a_cluster_that_does_not_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["grid", "--address", "127.0.0.1:1", "--output", str(tmp_path / "grid.csv")])
    with pytest.raises(SystemExit, match=r"grid: error: --address 127.0.0.1:1: no Ray cluster answers \(.*refused"):
        grid.main()


def test_grid_without_ray_names_the_command_that_installs_it(tmp_path):
    (tmp_path / "x.py").write_text("import sys; sys.modules['ray'] = None; from sb3_pg_extras.zoo import main; main()")
    result = this_environment().run(str(tmp_path / "x.py"), "grid", folder=tmp_path)
    assert result.returncode == 1
    assert 'sb3-pg-extras grid: error: ray is not installed: pip install "sb3-pg-extras[ray]"' in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "grid.csv").exists()


DATASET = "bundled:pendulum-mixed-v0"
DATA = grid.Data(DATASET, "Pendulum-v1", {})


@pytest.mark.parametrize("algo", ["reinforce", "single_step_a2c"])
def test_online_algorithms_go_on_from_a_checkpoint_with_their_statistics(algo, tmp_path):
    plan = grid.Plan(tmp_path, 400, 1, None, {DATASET: DATA})
    folder = grid.run_folder(plan, algo, DATASET, 0, 1600)

    class Killed(Exception):
        pass

    def save_twice(model, run, env_id):
        save_checkpoint(model, run, env_id)
        saved.append((model.num_timesteps, model.get_vec_normalize_env().obs_rms))
        if len(saved) == 2:
            raise Killed

    saved, save_checkpoint = [], grid.save_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "save_checkpoint", save_twice)
        with pytest.raises(Killed):
            grid.run(plan, algo, DATASET, 0, 1600)
    step, statistics = saved[-1]
    assert 800 <= step < 1600 and list(grid.checkpoints(folder)) == [step]
    file = folder / f"step_{step}" / "Pendulum-v1" / "vecnormalize.pkl"
    kept = VecNormalize.load(str(file), make_vec_env("Pendulum-v1"))
    assert kept.obs_rms.count == statistics.count > 500
    np.testing.assert_array_equal(kept.obs_rms.mean, statistics.mean)
    row = grid.run(plan, algo, DATASET, 0, 1600)
    assert [start.step for start in grid.read_starts(folder)] == [0, step]
    assert row["starts"] == 2 and row["n_timesteps"] == 1600
    (last,) = grid.checkpoints(folder)
    # Not another 1600 from there; REINFORCE ends its episodes.
    assert 1600 <= last < step + 1600


def test_a_run_that_fails_loses_no_rows_of_the_others(tmp_path):
    def job(number: int) -> dict[str, int]:
        if number == 1:
            raise ValueError("job 1 failed")
        return {"number": number}

    with pytest.raises(ValueError, match="job 1 failed"):
        run_missing(
            tmp_path / "x.csv", ["number"], [(0,), (1,), (2,)], lambda row: (int(row["number"]),), job, ThreadPoolExecutor(1)
        )
    assert sorted((tmp_path / "x.csv").read_text().split()) == ["0", "2", "number"]


def test_typed_again_the_grid_runs_what_is_missing(tmp_path, monkeypatch):
    (tmp_path / "grid.yml").write_text(kills.GRID_ENTRY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grid, "start_ray", lambda address, workers: None)
    monkeypatch.setattr(grid, "RayPool", lambda ray, max_retries: ThreadPoolExecutor(1))

    def typed(*seeds: str, conf: str = "grid.yml", episodes: str = "1") -> list[list[str]]:
        arguments = ["-conf", conf, "-n", "205", "--eval-episodes", episodes, "--folder", "runs", "--output", "grid.csv"]
        monkeypatch.setattr(sys, "argv", ["grid", "--seeds", *seeds, *arguments])
        grid.main()
        return [line.split(",")[:4] for line in (tmp_path / "grid.csv").read_text().splitlines()[1:]]

    first = ["bear", DATASET, "0", "205"]
    assert typed("0") == [first]
    assert typed("0") == [first]
    assert typed("0", "1") == [first, ["bear", DATASET, "1", "205"]]
    assert [len(grid.read_starts(run)) for run in (tmp_path / "runs").iterdir()] == [1, 1]
    # Rows of another entry, or of other evaluations, do not count. The second needs no training.
    (tmp_path / "other.yml").write_text(kills.GRID_ENTRY + "  gamma: 0.9\n")
    assert len(typed("0", "0", conf="other.yml")) == 3
    assert len(typed("0", episodes="2")) == 4
    assert sorted(len(grid.read_starts(run)) for run in (tmp_path / "runs").iterdir()) == [1, 1, 2]


def test_what_a_grid_cannot_run_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "start_ray", lambda address, workers: None)
    (tmp_path / "x.yml").write_text("Hopper-v5: {policy: MlpPolicy}")
    arguments = ["grid", "-conf", str(tmp_path / "x.yml"), "--output", str(tmp_path / "grid.csv")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit, match=r"x\.yml has neither an entry Pendulum-v1 nor one that is called default"):
        grid.main()
    (tmp_path / "x.yml").write_text("default: {policy: MlpPolicy}")
    with pytest.raises(SystemExit, match="no n_timesteps for bear on bundled:pendulum-mixed-v0: give -n"):
        grid.main()
    nowhere = replace(load_dataset(DATASET)[:10], env_id="Nowhere-v0")
    save_dataset(nowhere, tmp_path / "nowhere.npz")
    monkeypatch.setattr(sys, "argv", [*arguments, "--datasets", str(tmp_path / "nowhere.npz")])
    with pytest.raises(gym.error.Error, match="Nowhere"):
        grid.main()


def test_statistics_of_an_environment_with_a_namespace_are_found(tmp_path):
    gym.register("lab/Pendulum-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=200)
    try:
        plan = grid.Plan(tmp_path, 50, 1, None, {DATASET: DATA._replace(env_id="lab/Pendulum-v0")})
        conf = tmp_path / "x.yml"
        conf.write_text("default: {normalize: true, policy: MlpPolicy}")
        run = ("single_step_a2c", DATASET, 0, 60)
        plan = plan._replace(conf_file=conf)
        grid.run(plan, *run)
        assert (grid.run_folder(plan, *run) / "step_60" / "lab-Pendulum-v0" / "vecnormalize.pkl").is_file()
    finally:
        gym.registry.pop("lab/Pendulum-v0")


def test_an_entry_may_stack_frames_and_have_schedules(tmp_path):
    conf_file = tmp_path / "stacked.yml"
    conf_file.write_text("Pendulum-v1: {n_timesteps: 60, policy: MlpPolicy, frame_stack: 2, learning_rate: lin_0.001}")
    plan = grid.Plan(tmp_path, 50, 1, conf_file, {DATASET: DATA})
    grid.run(plan, "single_step_a2c", DATASET, 0, 60)
    model = SingleStepA2C.load(grid.run_folder(plan, "single_step_a2c", DATASET, 0, 60) / "step_60" / "model.zip")
    assert model.observation_space.shape == (6,)
    assert (model.lr_schedule(1.0), model.lr_schedule(0.5)) == (0.001, 0.0005)


def test_a_checkpoint_cut_short_is_none(tmp_path, monkeypatch):
    plan = grid.Plan(tmp_path, 50, 1, None, {DATASET: DATA})
    run = ("single_step_a2c", DATASET, 0, 60)
    folder = grid.run_folder(plan, *run)
    with monkeypatch.context() as disk:

        def full(self, path):
            raise OSError("no space left")

        for wrapper in (VecNormalize, WholeVecNormalize):
            disk.setattr(wrapper, "save", full)
        with pytest.raises(OSError, match="no space left"):
            grid.run(plan, *run)
    assert list(folder.rglob("model.zip")) != []
    assert grid.checkpoints(folder) == {}
    grid.run(plan, *run)
    assert list(grid.checkpoints(folder)) == [60]
    assert [start.step for start in grid.read_starts(folder)] == [0, 0]


def test_other_settings_have_another_folder(tmp_path):
    (tmp_path / "a.yml").write_text("default: {n_timesteps: 10, policy: MlpPolicy}")
    datasets = {DATASET: DATA, "x/d.npz": DATA._replace(source="/x/d.npz"), "d.npz": DATA._replace(source="/d.npz")}
    plan = grid.Plan(tmp_path, 50, 1, None, datasets)
    runs = [("bear", DATASET, 0, 60), ("bear", DATASET, 1, 60), ("bear", DATASET, 0, 70), ("reinforce", DATASET, 0, 60)]
    runs += [("bear", "x/d.npz", 0, 60), ("bear", "d.npz", 0, 60)]
    folders = [grid.run_folder(plan, *run) for run in runs]
    folders.append(grid.run_folder(plan._replace(conf_file=tmp_path / "a.yml"), *runs[0]))
    # Other data at the same path, and another environment.
    for other in (DATA._replace(fingerprint={"transitions": 7}), DATA._replace(env_id="MountainCarContinuous-v0")):
        folders.append(grid.run_folder(plan._replace(datasets={DATASET: other}), *runs[0]))
    assert len(set(folders)) == 9
    assert grid.run_folder(plan._replace(checkpoint_freq=7), *runs[0]) == folders[0]
