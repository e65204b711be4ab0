"""
A search (``-optimize``) that several workers share through ``--storage``, and that goes on when one of them is killed.

The zoo's workers share a study, but a trial whose worker was killed keeps running for ever there: nobody does it again, and
``--max-total-trials`` counts it. Here a worker writes a heartbeat into the trial it runs. Any other worker that sees a
heartbeat stand still fails the trial and queues a new one with the same parameters (Optuna's own machinery for databases,
given to the journal file too), and no worker leaves before all the trials asked for have ended.
"""

import functools
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from sb3_pg_extras.datasets.optional import require

# Seconds between two heartbeats, and until a worker whose heartbeat stands still is taken for dead.
HEARTBEAT_INTERVAL = 10.0
GRACE_PERIOD = 60.0
# Seconds until the lock of the journal file is taken from a process that died holding it.
LOCK_GRACE_PERIOD = 30
# A trial that has taken this many workers with it is not tried again.
MAX_RETRIES = 3
# Workers that start together all create the tables; one of them is first.
CREATE_ATTEMPTS = 10
HEARTBEAT = "heartbeat"
Objective = Callable[[optuna.Trial], float]

_logger = optuna.logging.get_logger("optuna")


class HeartbeatMixin(BaseHeartbeat):
    """
    Heartbeats for any storage of Optuna, as an attribute of the running trial.

    They are only compared for being the same: how long one stands still is measured by the clock of who looks, so that
    machines need not agree on the time. A trial that never had one is judged alike: a worker can die before the first.
    """

    # Trial -> its last heartbeat and when this process first saw it.
    _seen: dict[int, tuple[Any, float]]

    def __getstate__(self) -> dict[Any, Any]:
        # Times are this process's own.
        return {**super().__getstate__(), "_seen": {}}  # type: ignore[dict-item]

    def record_heartbeat(self, trial_id: int) -> None:
        beat = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        try:
            self.set_trial_system_attr(trial_id, HEARTBEAT, beat)  # type: ignore[attr-defined]
        except (optuna.exceptions.OptunaError, SQLAlchemyError, OSError) as error:
            # The thread that calls this would end: a database that is away for a moment must not cost a live worker its
            # trial.
            _logger.warning(f"No heartbeat of trial {trial_id}: {error}")

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        now, before, seen = time.monotonic(), getattr(self, "_seen", {}), {}
        for trial in self.get_all_trials(study_id, False, (TrialState.RUNNING,)):  # type: ignore[attr-defined]
            beat = trial.system_attrs.get(HEARTBEAT)
            seen_beat, since = before.get(trial._trial_id, (beat, now))
            seen[trial._trial_id] = (beat, since if seen_beat == beat else now)
        self._seen = seen
        return [trial_id for trial_id, (_, since) in seen.items() if now - since > GRACE_PERIOD]

    def get_heartbeat_interval(self) -> int | None:
        # Optuna's threads wait for this long, whole seconds or not.
        return HEARTBEAT_INTERVAL  # type: ignore[return-value]

    def get_heartbeat_stale_trial_callback(self) -> Callable[[optuna.Study, FrozenTrial], None]:
        return RetryHeartbeatStaleTrialCallback(MAX_RETRIES)


class HeartbeatRDBStorage(HeartbeatMixin, RDBStorage):
    """A database with heartbeats."""


class HeartbeatJournalStorage(HeartbeatMixin, JournalStorage):
    """A journal file with heartbeats."""


class JournalLock(JournalFileOpenLock):
    """
    The lock of a journal file, which also cuts off what a process that was killed in the middle of a line has left: the next
    line would be joined to it, and no worker could read the journal any more.

    Optuna's default, a symbolic link, is never taken from a dead process if the journal's path is relative and has a folder
    (4.x and 5.0): the link then points nowhere.

    :param path: The journal file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, LOCK_GRACE_PERIOD)
        self._path = path

    def acquire(self) -> bool:
        super().acquire()
        with open(self._path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True


def open_storage(storage: str) -> BaseStorage:
    """
    :param storage: The zoo's ``--storage``: a path that ends in ``.log`` is a journal file, all else the URL of a database.
    :return: The storage, with heartbeats.
    :raises ValueError: when it is no URL, or the database cannot be reached.
    :raises DatasetError: when PostgreSQL's driver is not installed.
    """
    if storage.endswith(".log"):
        path = os.path.abspath(storage)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return HeartbeatJournalStorage(JournalFileBackend(path, JournalLock(path)))
    try:
        url = make_url(storage)
    except SQLAlchemyError as error:
        raise ValueError(
            f"--storage {storage}: neither a journal file (study.log) nor the URL of a database (postgresql://user@host/name)"
        ) from error
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        require("psycopg", "search")
    for attempt in range(CREATE_ATTEMPTS):
        try:
            # Connections that the server has closed meanwhile are made anew.
            return HeartbeatRDBStorage(storage, {"pool_pre_ping": True})
        except OperationalError as error:
            if url.get_backend_name() != "sqlite" or attempt == CREATE_ATTEMPTS - 1:
                reason = str(error.orig).strip().splitlines()[0]
                raise ValueError(
                    f"--storage {url.render_as_string()}: cannot be reached ({reason}): is the server running?"
                ) from error
        except (IntegrityError, ProgrammingError):
            if attempt == CREATE_ATTEMPTS - 1:
                raise
        time.sleep(0.2 * (attempt + 1))
    raise AssertionError("unreachable")


def counted_trials(study: optuna.Study, max_total_trials: int) -> list[FrozenTrial]:
    """
    The trials that the search consists of: the first ``max_total_trials`` that have not failed, in the order of their
    numbers. All workers see the same ones: numbers are given out by the storage.

    :param study: The study.
    :param max_total_trials: How many trials were asked for.
    :return: At most so many trials, in any state but failed.
    """
    alive = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
    return sorted(alive, key=lambda trial: trial.number)[:max_total_trials]


def _nothing_to_start(trials: list[FrozenTrial], max_total_trials: int) -> bool:
    return len(trials) == max_total_trials and all(trial.state != TrialState.WAITING for trial in trials)


class _OneTooMany(Exception):
    """Two workers have started what was meant to be the last trial; the later one is given up."""


def run_trials(
    study: optuna.Study, objective: Objective, max_total_trials: int, optimize: Callable[..., None], **kwargs: Any
) -> None:
    """
    Run trials, next to other workers, until exactly ``max_total_trials`` of the study are complete or pruned.

    :param study: The study, with a storage of :func:`open_storage`.
    :param objective: What runs a trial.
    :param max_total_trials: Trials of all workers together.
    :param optimize: ``optuna.Study.optimize``.
    :param kwargs: More arguments of it.
    """

    # Trials of this worker that others have taken, as they do when a machine sleeps for longer than the grace period.
    taken: list[int] = []

    def counted_objective(trial: optuna.Trial) -> float:
        if trial.number not in {counted.number for counted in counted_trials(study, max_total_trials)}:
            raise _OneTooMany(f"{max_total_trials} trials are running or have ended")
        try:
            return objective(trial)
        finally:
            if study.get_trials(deepcopy=False)[trial.number].state == TrialState.FAIL:
                taken.append(trial.number)

    def stop(study: optuna.Study, trial: FrozenTrial) -> None:
        if _nothing_to_start(counted_trials(study, max_total_trials), max_total_trials):
            study.stop()

    waiting = False
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
        trials = counted_trials(study, max_total_trials)
        if not _nothing_to_start(trials, max_total_trials):
            waiting = False
            try:
                optimize(study, counted_objective, callbacks=[stop], catch=(_OneTooMany,), **kwargs)
            except Exception:
                # Optuna's complaint that the trial has ended already.
                if not taken:
                    raise
                _logger.warning(f"Another worker took this one for dead, and runs its trial {taken.pop()} again")
            continue
        running = [str(trial.number) for trial in trials if not trial.state.is_finished()]
        if not running:
            return
        if not waiting:
            print(f"Waiting for other workers to end trials {', '.join(running)}", flush=True)
            waiting = True
        time.sleep(min(HEARTBEAT_INTERVAL, 1.0))


def share_searches() -> None:
    """Have the zoo's ``-optimize``, in this process, survive workers that are killed."""
    from rl_zoo3.exp_manager import ExperimentManager

    zoo_search = ExperimentManager.hyperparameters_optimization
    create_study, optimize = optuna.create_study, optuna.Study.optimize

    @functools.wraps(zoo_search)
    def hyperparameters_optimization(manager: ExperimentManager) -> None:
        if manager.storage is None:
            return zoo_search(manager)
        total = manager.max_total_trials
        try:
            if total is not None and total < 1:
                raise ValueError(f"--max-total-trials {total}: at least 1")
            storage = open_storage(manager.storage)
        except ValueError as error:
            sys.exit(f"sb3-pg-extras train: error: {error}")
        # The zoo would count the trials of dead workers, and leave before others have ended.
        manager.max_total_trials = None

        def create_shared_study(**kwargs: Any) -> optuna.Study:
            return create_study(**{**kwargs, "storage": storage})

        def run_all_trials(study: optuna.Study, func: Objective, n_trials: int, **kwargs: Any) -> None:
            if total is None:
                optimize(study, func, n_trials=n_trials, **kwargs)
            else:
                run_trials(study, func, total, optimize, **kwargs)

        with (
            mock.patch.object(optuna, "create_study", create_shared_study),
            mock.patch.object(optuna.Study, "optimize", run_all_trials),
        ):
            zoo_search(manager)

    ExperimentManager.hyperparameters_optimization = hyperparameters_optimization  # type: ignore[method-assign, assignment]
