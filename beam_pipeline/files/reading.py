"""Reads many files one after another, or several at a time where each read waits for a network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from beam_pipeline.storage.paths import StoredPath

READERS = 8
"""How many objects are read at the same time; a footer is one request of some milliseconds."""

_READ_AHEAD = 2 * READERS

_Path = TypeVar("_Path", bound=StoredPath)
_Result = TypeVar("_Result")


def read_each(
    paths: Iterable[_Path], read: Callable[[_Path], _Result]
) -> Iterator[tuple[_Path, Callable[[], _Result]]]:
    """Yield each path, in order, with a function that returns what `read` returns for it.

    That function raises what `read` raises. Files of a directory are read when it is called, in
    this thread. Objects are read ahead by `READERS` threads, `_READ_AHEAD` of them at most.

    >>> [(path.name, read()) for path, read in read_each([Path("a/b"), Path("c")], str)]
    [('b', 'a/b'), ('c', 'c')]
    """
    remaining = iter(paths)
    pending: deque[tuple[_Path, Future[_Result]]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers:
        try:
            for path in remaining:
                if isinstance(path, Path):
                    while pending:
                        yield _result_of(pending.popleft())
                    yield path, partial(read, path)
                    continue
                pending.append((path, readers.submit(read, path)))
                if len(pending) >= _READ_AHEAD:
                    yield _result_of(pending.popleft())
            while pending:
                yield _result_of(pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()


def _result_of(
    read: tuple[_Path, Future[_Result]],
) -> tuple[_Path, Callable[[], _Result]]:
    path, future = read
    return path, future.result
