"""Files are written whole or not at all."""

import glob
import io
import os
import pathlib
import secrets
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, cast

try:
    import fcntl
except ImportError:  # Windows, which does not delete a file that another process has open.
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | pathlib.Path) -> Iterator[BinaryIO]:
    """
    Open ``path`` for writing so that it gets all of the new content or keeps the old, even if the process is killed.

    The content goes to a temporary file in the same folder, which takes the place of ``path`` when the block ends without an
    exception. An existing file keeps its permissions, a link its target; missing parent folders are created. Temporary files
    that killed writers of the same file left behind are removed.

    :param path: The file to write.
    :return: A binary file to write the content to.
    """
    # A link goes on pointing to its file.
    path = pathlib.Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # With open(), unlike tempfile, a new file gets the process's usual permissions.
        with open(temporary, "xb") as file:
            if fcntl is not None:
                # The lock shows that the writer is alive. Some file systems have no locks.
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _remove_leftovers(path: pathlib.Path) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            if fcntl is None:
                leftover.unlink()
                continue
            with leftover.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()


@contextmanager
def open_to_save(target: str | pathlib.Path | io.BufferedIOBase, suffix: str = "") -> Iterator[io.BufferedIOBase]:
    """
    What the ``save`` methods of SB3 write to: a file object as it is, a file whole or not at all.

    :param target: A file object, or a path.
    :param suffix: Suffix for a path without one, such as ".zip"; none by default.
    :return: The file object. As in SB3, if the path is a folder, "_2" is added to its name.
    """
    if not isinstance(target, (str, pathlib.Path)):
        yield target
        return
    path = pathlib.Path(target)
    path = path if path.suffix else pathlib.Path(f"{path}{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2")
        path = pathlib.Path(f"{path}_2")
    with atomic_write(path) as file:
        yield cast(io.BufferedIOBase, file)
