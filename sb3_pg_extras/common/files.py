"""Files are written whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """
    Open ``path`` for writing so that it either gets the whole new content or keeps what it had.

    The content goes to a temporary file in the same folder, which takes the place of ``path`` when the block
    ends without an exception. Missing parent folders are created.

    :param path: The file to write.
    :return: A binary file to write the content to.
    """
    # A link goes on pointing to its file.
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; give this one the permissions any new file would have.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
