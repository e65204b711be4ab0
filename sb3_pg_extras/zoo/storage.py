"""
A search (``-optimize``) that several workers share through ``--storage``, and that survives when one of them is killed.

The zoo's workers share a study, but a trial whose worker was killed counts as running for ever. Here a worker writes a
heartbeat into the trial it runs. Any worker that sees a heartbeat stop fails the trial and queues a new one with the same
parameters, and no worker leaves before all requested trials have ended. Optuna's own heartbeats need a database; these work
in a journal file too.
"""

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from sb3_pg_extras.common.optional import require

# Seconds between two heartbeats, and until a worker whose heartbeat has stopped counts as dead.
HEARTBEAT_INTERVAL = 10.0
GRACE_PERIOD = 60.0
# Seconds until the journal file's lock is taken from a process that died holding it.
LOCK_GRACE_PERIOD = 30
# A trial whose worker died this many times is not tried again.
MAX_RETRIES = 3
# Workers that start together all try to create the tables.
CREATE_ATTEMPTS = 10
HEARTBEAT = "heartbeat"
Objective = Callable[[optuna.Trial], Any]

_logger = optuna.logging.get_logger("optuna")


class _OneTooMany(Exception):
    """Two workers have both started the last trial; the later one is dropped."""


class SharedStudy(optuna.Study):
    """
    A study whose workers may be killed.

    The time since the last heartbeat is measured by the clock of the worker that checks it: machines need not agree on the
    time. A trial without a heartbeat is treated in the same way: a worker can die before the first.

    :param study_name: Name of a study in the storage.
    :param storage: A storage from :func:`open_storage`.
    :param max_total_trials: If given, :meth:`optimize` ends when exactly so many trials of all workers together are
        complete or pruned.
    :param kwargs: Other arguments of ``optuna.Study``.
    """

    def __init__(self, study_name: str, storage: BaseStorage, max_total_trials: int | None = None, **kwargs: Any) -> None:
        super().__init__(study_name, storage, **kwargs)
        self.storage, self.max_total_trials = storage, max_total_trials
        # Number of a running trial -> its last heartbeat and when this process first saw it.
        self.seen: dict[int, tuple[Any, float]] = {}

    def __getstate__(self) -> dict[Any, Any]:
        """:return: The state to pickle, without the times, which only this process can compare."""
        return {**super().__getstate__(), "seen": {}}

    def ask(self, *args: Any, **kwargs: Any) -> optuna.Trial:
        """:return: A trial to run, perhaps that of a dead worker. The arguments are Optuna's."""
        self.retry_trials_of_dead_workers()
        return super().ask(*args, **kwargs)

    def optimize(self, func: Objective, *args: Any, **kwargs: Any) -> None:
        """
        Run trials, together with other workers.

        :param func: Runs a trial and returns its value.
        :param args: Other arguments of ``optuna.Study.optimize`` for this worker; ignored with ``max_total_trials``.
        :param kwargs: Other keyword arguments of it.
        """
        if self.max_total_trials is None:
            return super().optimize(lambda trial: self._run(func, trial), *args, **kwargs)
        # Trials that others took over, because this machine slept for longer than the grace period.
        taken: list[int] = []

        def run_if_counted(trial: optuna.Trial) -> Any:
            if trial.number not in {counted.number for counted in self.counted_trials()}:
                raise _OneTooMany(f"{self.max_total_trials} trials are running or have ended")
            try:
                return self._run(func, trial)
            finally:
                if self.get_trials(deepcopy=False)[trial.number].state == TrialState.FAIL:
                    taken.append(trial.number)

        def stop(study: optuna.Study, trial: FrozenTrial) -> None:
            if not self._has_more_to_start():
                study.stop()

        announced: list[str] = []
        while True:
            self.retry_trials_of_dead_workers()
            if self._has_more_to_start():
                try:
                    super().optimize(run_if_counted, callbacks=[stop], catch=(_OneTooMany,), **kwargs)
                except Exception:
                    # Optuna complains that the trial has ended already.
                    if not taken:
                        raise
                    _logger.warning(f"Another worker considered this one dead, and runs its trial {taken.pop()} again")
                continue
            running = [str(trial.number) for trial in self.counted_trials() if not trial.state.is_finished()]
            if not running:
                return
            if running != announced:
                print(f"Waiting for other workers to end trials {', '.join(running)}", flush=True)
            announced = running
            time.sleep(min(HEARTBEAT_INTERVAL, 1.0))

    def counted_trials(self) -> list[FrozenTrial]:
        """
        :return: The trials that count: the first ``max_total_trials`` that have not failed, in the order of their numbers.
            All workers see the same ones, since the storage assigns the numbers.
        """
        alive = [trial for trial in self.get_trials(deepcopy=False) if trial.state != TrialState.FAIL]
        return alive[: self.max_total_trials]

    def write_heartbeat(self, number: int) -> None:
        """
        Write into a trial that its worker is alive.

        :param number: Number of the trial, which this process is running.
        """
        beat: dict[str, Any] = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        try:
            self.storage.set_trial_system_attr(self._trial_id(number), HEARTBEAT, beat)
        except (OptunaError, SQLAlchemyError, OSError) as error:
            # A short outage of the database must not cost a live worker its trial.
            _logger.warning(f"No heartbeat of trial {number}: {error}")

    def retry_trials_of_dead_workers(self) -> None:
        """Fail the trials whose heartbeat stopped longer ago than the grace period, and queue their parameters again."""
        now, seen = time.monotonic(), {}
        for trial in self.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            beat = trial.system_attrs.get(HEARTBEAT)
            seen_beat, since = self.seen.get(trial.number, (beat, now))
            seen[trial.number] = (beat, since if seen_beat == beat else now)
            if now - seen[trial.number][1] <= GRACE_PERIOD:
                continue
            try:
                self.storage.set_trial_state_values(self._trial_id(trial.number), TrialState.FAIL)
            except UpdateFinishedTrialError:
                continue  # another worker was first
            history = [*trial.system_attrs.get("retry_history", []), trial.number]
            if len(history) <= MAX_RETRIES:
                # The attributes of Optuna's RetryHeartbeatStaleTrialCallback.
                attributes = {"failed_trial": history[0], **trial.system_attrs, "retry_history": history}
                again: dict[str, Any] = {name: getattr(trial, name) for name in ("params", "distributions", "user_attrs")}
                self.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs=attributes, **again))
        self.seen = seen

    def _has_more_to_start(self) -> bool:
        trials = self.counted_trials()
        return len(trials) != self.max_total_trials or any(trial.state == TrialState.WAITING for trial in trials)

    def _run(self, func: Objective, trial: optuna.Trial) -> Any:
        ended = threading.Event()

        def beat() -> None:
            self.write_heartbeat(trial.number)
            while not ended.wait(HEARTBEAT_INTERVAL):
                self.write_heartbeat(trial.number)

        heart = threading.Thread(target=beat)
        heart.start()
        try:
            return func(trial)
        finally:
            ended.set()
            heart.join()

    def _trial_id(self, number: int) -> int:
        study_id = self.storage.get_study_id_from_name(self.study_name)
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)


class JournalLock(JournalFileOpenLock):
    """
    The lock of a journal file. It also removes the partial line of a process that was killed while writing: the next line
    would be joined to it, and no worker could read the journal any more.

    :param path: The journal file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, LOCK_GRACE_PERIOD)
        self._path = path

    def acquire(self) -> bool:
        """:return: True, once the lock is held and the file is repaired."""
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
    :param storage: The zoo's ``--storage``: a path that ends in ``.log`` is a journal file, anything else a database's URL.
    :return: The storage.
    :raises ValueError: when it is not a URL, or the database cannot be reached.
    """
    if storage.endswith(".log"):
        path = os.path.abspath(storage)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return JournalStorage(JournalFileBackend(path, JournalLock(path)))
    try:
        url = make_url(storage)
    except SQLAlchemyError as error:
        raise ValueError(
            f"--storage {storage}: neither a journal file (study.log) nor the URL of a database (postgresql://user@host/name)"
        ) from error
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        require("psycopg", "search")
        # Before SQLAlchemy 2.1, "postgresql" alone is psycopg2.
        storage = url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    for attempt in itertools.count(1):
        try:
            # Connections that the server has closed are reopened.
            return RDBStorage(storage, {"pool_pre_ping": True})
        except ImportError as error:
            raise ValueError(f"--storage {url.render_as_string()}: its driver is not installed: {error}") from error
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            no_server = isinstance(error, OperationalError) and url.get_backend_name() != "sqlite"
            if no_server or attempt == CREATE_ATTEMPTS:
                reason = str(error.orig).strip().splitlines()[0]
                raise ValueError(
                    f"--storage {url.render_as_string()}: cannot be reached ({reason}): is the server running?"
                ) from error
        time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")
