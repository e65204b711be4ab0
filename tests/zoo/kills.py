"""
Workers killed with SIGKILL while they work: ``python tests/zoo/kills.py``.

Ten times each: three workers of a search on a PostgreSQL server and on a journal file, one of them killed in the middle of
a trial; and a grid on Ray whose worker is killed between two checkpoints. One row per repetition goes to
``benchmarks/results/kills.csv`` as it ends; repetitions that are there already are not repeated.
"""

import argparse
import csv
import functools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
import torch as th
from optuna.trial import FrozenTrial, TrialState
from postgres import postgres

from sb3_pg_extras import BEAR
from sb3_pg_extras.zoo.grid import Data, Plan, checkpoints, read_starts, run_folder
from sb3_pg_extras.zoo.grid import run as run_one
from sb3_pg_extras.zoo.jobs import run_missing
from sb3_pg_extras.zoo.storage import HEARTBEAT, open_storage

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "kills.csv"
FIELDS = ["what", "repetition", "asked", "finished", "killed_at", "lost", "twice", "seconds"]
WHAT = ["search, PostgreSQL", "search, journal file", "grid, Ray"]
TRIALS, WORKERS, PATIENCE = 8, 3, 180.0
DATASET = "bundled:pendulum-mixed-v0"
# A small BEAR (the rows in kills.csv had 1,500 steps). The last checkpoint before the kill is past its warm-up.
GRID_STEPS, CHECKPOINT, KILL_AFTER = 600, 100, 200
GRID_ENTRY = """
Pendulum-v1:
  n_timesteps: 600
  policy: MlpPolicy
  warmup_fraction: 0.15
  batch_size: 64
  policy_kwargs: "dict(net_arch=[32, 32], vae_net_arch=[32, 32])"
"""
# The command, with shorter times for heartbeats.
WORKER = """
from sb3_pg_extras.zoo import main
from sb3_pg_extras.zoo import storage
storage.HEARTBEAT_INTERVAL, storage.GRACE_PERIOD, storage.LOCK_GRACE_PERIOD = 0.5, 4.0, 3
main()
"""


def start_worker(storage: str, folder: Path, n_trials: int) -> subprocess.Popen:
    """:return: ``sb3-pg-extras train -optimize``, running; its output goes to a file in the folder."""
    arguments = [
        "train", "--algo", "reinforce", "--env", "CartPole-v1", "-n", "10000", "-optimize", "--storage", storage,
        "--study-name", "kills", "--max-total-trials", str(n_trials), "--n-evaluations", "2", "--eval-episodes", "2",
        "--no-optim-plots", "--num-threads", "1", "--sampler", "random", "--pruner", "none", "-f", str(folder),
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "output.txt", "wb") as output:
        return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=folder, stdout=output, stderr=output)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """:return: What the condition returns once it is true."""
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {PATIENCE:.0f} s")
        time.sleep(0.02)
    return value


def stop_in_a_trial(worker: subprocess.Popen, study: optuna.Study) -> FrozenTrial | None:
    """:return: The trial in whose middle the worker has been stopped; None, and it goes on, if it was between two."""
    worker.send_signal(signal.SIGSTOP)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if trial.system_attrs.get(HEARTBEAT, {}).get("pid") == worker.pid:
            return trial
    worker.send_signal(signal.SIGCONT)
    return None


def kill_search(url: str, folder: Path, n_workers: int = WORKERS, n_trials: int = TRIALS) -> dict[str, Any]:
    """
    Kill one of the workers of a search in the middle of a trial.

    :param url: The search's ``--storage``.
    :param folder: An empty folder for the workers.
    :param n_workers: How many there are.
    :param n_trials: How many trials they are asked for.
    :return: What came of it: the columns of a row that do not name the repetition.
    """
    start = time.monotonic()
    workers = [start_worker(url, folder / f"worker_{i}", n_trials) for i in range(n_workers)]
    try:
        storage = open_storage(url)
        wait_for(lambda: "kills" in optuna.get_all_study_names(storage), "the study")
        study = optuna.load_study(study_name="kills", storage=storage)
        # All of them are at work.
        wait_for(
            lambda: (
                {worker.pid for worker in workers}
                <= {trial.system_attrs.get(HEARTBEAT, {}).get("pid") for trial in study.get_trials(deepcopy=False)}
            ),
            "a trial of each worker",
        )
        victim = workers.pop(0)
        killed = wait_for(lambda: stop_in_a_trial(victim, study), "the victim in a trial")
        victim.kill()
        victim.wait()
        for i, worker in enumerate(workers, 1):
            if worker.wait(PATIENCE) != 0:
                raise RuntimeError(f"a worker failed: {(folder / f'worker_{i}' / 'output.txt').read_text()}")
    finally:
        for worker in workers:
            worker.kill()
    trials = study.get_trials()
    finished = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    retries = [trial for trial in finished if killed.number in trial.system_attrs.get("retry_history", [])]
    # What was drawn before the kill is drawn again.
    repeated = [trial for trial in retries if killed.params.items() <= trial.params.items()]
    copies = Counter(str(sorted(trial.params.items())) for trial in finished)
    return {
        "asked": n_trials,
        "finished": len(finished),
        "killed_at": killed.number,
        "lost": max(0, n_trials - len(finished)) + (not repeated),
        "twice": max(0, len(finished) - n_trials) + sum(copies.values()) - len(copies),
        "seconds": f"{time.monotonic() - start:.1f}",
    }


def kill_grid(folder: Path, undisturbed: dict[str, th.Tensor]) -> dict[str, Any]:
    """
    Kill the worker of a grid between two checkpoints.

    :param folder: An empty folder for the grid.
    :param undisturbed: Weights of the same run when nobody disturbs it.
    :return: What came of it, as for :func:`kill_search`. ``killed_at`` is the step that the run went on from; it is lost if
        its weights are not those of the undisturbed run.
    """
    start = time.monotonic()
    grid = start_grid(folder)
    try:
        (run,) = wait_for(lambda: list((folder / "runs").glob("bear-*")), "the run")
        wait_for(lambda: max(checkpoints(run), default=0) >= KILL_AFTER, "a checkpoint")
        time.sleep(random.uniform(0, 0.3))
        os.kill(read_starts(run)[-1].pid, signal.SIGKILL)
        if grid.wait(PATIENCE) != 0:
            raise RuntimeError(f"the grid failed: {(folder / 'output.txt').read_text()}")
    finally:
        grid.kill()
    with open(folder / "grid.csv") as file:
        rows = list(csv.DictReader(file))
    resumed = read_starts(run)[-1].step
    weights = weights_of(run)
    same = all(th.equal(weights[name], value) for name, value in undisturbed.items())
    return {
        "asked": 1,
        "finished": len(rows),
        "killed_at": resumed,
        "lost": int(not (same and 0 < resumed < GRID_STEPS)),
        "twice": len(rows) - 1,
        "seconds": f"{time.monotonic() - start:.1f}",
    }


def start_grid(folder: Path, *more: str) -> subprocess.Popen:
    """:return: The grid of one run of BEAR, running, with more arguments."""
    arguments = [
        "--algos", "bear", "--datasets", DATASET, "--seeds", "0", "--n-timesteps", str(GRID_STEPS),
        "--checkpoint-freq", str(CHECKPOINT), "--eval-episodes", "2", "--workers", "1",
        "--conf-file", "grid.yml", "--folder", str(folder / "runs"), "--output", str(folder / "grid.csv"), *more,
    ]  # fmt: skip
    (folder / "grid.yml").write_text(GRID_ENTRY)
    with open(folder / "output.txt", "wb") as output:
        command = [sys.executable, "-m", "sb3_pg_extras.zoo", "grid", *arguments]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)


def weights_of(run: Path) -> dict[str, th.Tensor]:
    """:return: The weights at the end of a run of the grid."""
    return BEAR.load(checkpoints(run)[GRID_STEPS] / "model.zip", device="cpu").policy.state_dict()


def undisturbed_weights(folder: Path) -> dict[str, th.Tensor]:
    """:return: The weights of the grid's run when nobody disturbs it, trained in this process."""
    (folder / "grid.yml").write_text(GRID_ENTRY)
    plan = Plan(folder, CHECKPOINT, 1, folder / "grid.yml", {DATASET: Data(DATASET, "Pendulum-v1", {})})
    run_one(plan, "bear", DATASET, 0, GRID_STEPS)
    return weights_of(run_folder(plan, "bear", DATASET, 0, GRID_STEPS))


def run(what: str, repetition: int, reference: dict[str, th.Tensor]) -> dict[str, Any]:
    """:return: The row of one repetition."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what == "grid, Ray":
            row = kill_grid(folder, reference)
        elif what == "search, journal file":
            row = kill_search(str(folder / "study.log"), folder)
        else:
            with postgres() as url:
                row = kill_search(url, folder)
    return {"what": what, "repetition": repetition, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    jobs = [(what, repetition) for what in WHAT for repetition in range(args.repetitions)]
    with tempfile.TemporaryDirectory() as name:
        reference = undisturbed_weights(Path(name))
    run_missing(
        args.output, FIELDS, jobs, lambda row: (row["what"], int(row["repetition"])),
        functools.partial(run, reference=reference), ThreadPoolExecutor(1),
    )  # fmt: skip


if __name__ == "__main__":
    main()
