"""What the readers of files of unknown origin share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_pg_extras.common.optional import MissingPackageError
from sb3_pg_extras.datasets.dataset import DatasetError

# Deflate packs at most 1032 bytes into one; anything above cannot be real data.
MAX_INFLATION = 1100


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """
    Turn whatever goes wrong while a file is parsed into one :class:`DatasetError` that names the file.

    A parser of foreign bytes can fail in more ways than can be listed, hence the broad ``except``.

    :param path: The file that is read.
    :param what: What it is expected to be, for the message.
    """
    if not Path(path).exists():
        raise DatasetError(f"{path}: no such file")
    try:
        yield
    except (DatasetError, MissingPackageError) as error:
        raise error if str(path) in str(error) else type(error)(f"{path}: {error}") from error
    except Exception as error:
        raise DatasetError(
            f"{path}: cannot be read as {what} ({type(error).__name__}: {error}). Is the file complete?"
        ) from error
