"""What the readers of files of unknown origin share."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_pg_extras.common.optional import MissingPackageError
from sb3_pg_extras.datasets.dataset import DatasetError

# Deflate packs at most 1032 bytes into one; anything above cannot be real data.
MAX_INFLATION = 1100


def warn_of_time_limits(what: str) -> None:
    """:param what: The flag that says that an episode ended, but not why."""
    warnings.warn(
        f"{what} does not say which episodes ended at a time limit: each end is treated as a terminal state, with a value "
        "of 0. If some are time limits, pass a dict of arrays with truncations instead"
    )


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """
    Turn whatever goes wrong while a file is parsed into one :class:`DatasetError` that names the file.

    :param path: The file that is read.
    :param what: What it is expected to be, for the message.
    """
    if not Path(path).exists():
        raise DatasetError(f"{path}: no such file")
    with naming(str(path), f": cannot be read as {what}", ": "):
        yield


@contextmanager
def naming(name: str, failed: str = " cannot be read", separator: str = " ") -> Iterator[None]:
    """
    Turn whatever goes wrong in the block into one :class:`DatasetError` that names what is read.

    A parser of untrusted bytes can fail in more ways than can be listed, hence the broad ``except``.

    :param name: What is read: a file, or a part of one. A message that contains it already stays as it is.
    :param failed: What the message says after the name if the parser failed.
    :param separator: Between the name and the message of a :class:`DatasetError`.
    """
    try:
        yield
    except (DatasetError, MissingPackageError) as error:
        raise error if name in str(error) else type(error)(f"{name}{separator}{error}") from error
    except Exception as error:
        raise DatasetError(f"{name}{failed} ({type(error).__name__}: {error}). Is the file complete?") from error
