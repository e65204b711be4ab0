"""Steps on disk that survive the process that takes them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from sb3_pg_extras.common.files import atomic_write
from sb3_pg_extras.datasets import DatasetError


class Journal:
    """
    A folder with the steps of one or more runs, ``run-0.bin``, ``run-1.bin``, ...: opened again, it resumes.

    Each step is handed to the operating system as soon as it is appended: a process that is killed, at any moment, loses
    only the step that it was writing.

    :param folder: The folder; it is created if it does not exist.
    :param arguments: What the steps depend on, as JSON values. A journal with other arguments is an error.
    :param dtype: The type of a step.
    :raises DatasetError: when the folder was begun with other arguments, another process is writing there, or it cannot be
        written.
    """

    def __init__(self, folder: str | Path, arguments: dict[str, Any], dtype: np.dtype) -> None:
        self.folder, self.dtype = Path(folder), dtype
        self._lock = FileLock(self.folder / "lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise DatasetError(
                f"{folder} is being written by another process: wait for it, or use another output"
            ) from error
        except OSError as error:
            raise DatasetError(f"{folder} cannot be written: {error}") from error
        try:
            self._check_arguments(arguments)
            self.n_runs = len(list(self.folder.glob("run-*.bin")))
            self.n_steps = sum(map(len, self.runs()))
            self._file = open(self._path(self.n_runs), "xb")  # noqa: SIM115 (open as long as the journal)
        except BaseException:
            self._lock.release()
            raise

    def _path(self, run: int) -> Path:
        return self.folder / f"run-{run}.bin"

    def _check_arguments(self, arguments: dict[str, Any]) -> None:
        path = self.folder / "arguments.json"
        if not path.exists():
            with atomic_write(path) as file:
                file.write(json.dumps(arguments, indent=2).encode())
        begun = json.loads(path.read_text(encoding="utf-8"))
        for name, value in json.loads(json.dumps(arguments)).items():
            if begun.get(name) != value:
                raise DatasetError(
                    f"{self.folder} was begun with {name}={begun.get(name)!r}, and now it is {value!r}: "
                    "delete that folder to begin anew, or use another output"
                )

    def append(self, steps: np.ndarray) -> None:
        """:param steps: One or more steps, which belong to the run that began when the journal was opened."""
        self._file.write(steps.tobytes())
        self._file.flush()
        self.n_steps += len(steps)

    def runs(self) -> list[np.ndarray]:
        """:return: The steps of each run that has any, in order, memory-mapped."""
        paths = [self._path(run) for run in range(self.n_runs + 1)]
        lengths = [path.stat().st_size // self.dtype.itemsize if path.exists() else 0 for path in paths]
        return [np.memmap(path, self.dtype, "r", shape=n) for path, n in zip(paths, lengths, strict=True) if n]

    def close(self) -> None:
        """Close the journal, so that another process can resume it."""
        self._file.close()
        self._lock.release()

    def remove(self) -> None:
        """Delete the folder while it is locked, so that no other process's journal is deleted."""
        self._file.close()
        shutil.rmtree(self.folder)
        self._lock.release()
