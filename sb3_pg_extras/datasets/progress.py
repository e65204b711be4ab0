"""
The progress bar of a long load, in bytes of the file or folder.

:func:`~sb3_pg_extras.datasets.load_dataset` opens it and the readers advance it, through a context variable.
"""

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO, TypeVar

from tqdm import tqdm

# Seconds until the bar appears.
DELAY = 2.0
# Bytes read at a time.
PART = 1 << 20
_bar: ContextVar[Any] = ContextVar("bar", default=None)
T = TypeVar("T")


@contextmanager
def progress_bar(name: str, n_bytes: int) -> Iterator[None]:
    """
    Show a bar on stderr once the block has taken :data:`DELAY` seconds.

    :param name: What is loaded.
    :param n_bytes: Its size, at which the bar is full. The bar is also full when a reader that skips parts is done.
    """
    with tqdm(desc=f"Loading {name}", total=n_bytes, unit="B", unit_scale=True, delay=DELAY) as bar:
        token = _bar.set(bar)
        try:
            yield
        finally:
            _bar.reset(token)
        bar.update(n_bytes - bar.n)


def advance(n_bytes: float) -> None:
    """:param n_bytes: Bytes that have been read since the last call."""
    bar = _bar.get()
    if bar is not None:
        # Parts that are read twice do not overfill it.
        bar.update(max(0, min(n_bytes, bar.total - bar.n)))


def track(items: Iterable[T], n_items: int, share: float = 1.0) -> Iterator[T]:
    """
    :param items: The parts of what is loaded, of about the same size.
    :param n_items: How many there are.
    :param share: Their share of the whole work.
    :return: The same; the bar advances with each.
    """
    bar = _bar.get()
    n_bytes = 0.0 if bar is None else share * bar.total / max(n_items, 1)
    for item in items:
        yield item
        advance(n_bytes)


class CountedFile:
    """
    A file whose reads advance the bar.

    :param file: The file, open for reading.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        # In parts, to advance the bar, and to take no more memory than the file has bytes, whatever size is asked for.
        data = io.BytesIO()
        while part := self._file.read(PART if size < 0 else min(PART, size - data.tell())):
            data.write(part)
            advance(len(part))
        return data.getvalue()

    def readline(self) -> bytes:
        data = self._file.readline()
        advance(len(data))
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
