"""A few threads for work that shares nothing it writes: kernels and tensor operations run without the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch

MOST = 4
"""More threads than these wait for the GIL."""

Given = TypeVar("Given")
Made = TypeVar("Made")


def processors() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(count: int, name: str) -> ThreadPoolExecutor:
    """Threads that compute as their maker does: each has its own number of torch's, and last bits depend on that."""
    threads = torch.get_num_threads()
    return ThreadPoolExecutor(count, name, lambda: torch.set_num_threads(threads))


class SideBySide:
    """Threads that are begun when they are first needed, and end with this object.

    >>> SideBySide(2).each(abs, iter([-1, -2, 3]))
    [1, 2, 3]
    """

    def __init__(self, threads: int) -> None:
        """With 0 as many as there are processors, but at most `MOST`."""
        self._threads = threads or min(processors(), MOST)
        self._pool: ThreadPoolExecutor | None = None

    def each(self, work: Callable[[Given], Made], given: Iterable[Given]) -> list[Made]:
        """What comes of each, in order; `given` is gone through by the caller, and nothing goes on afterwards.

        Raises what the first that failed did.
        """
        pool = self._working()
        begun: list[Future[Made]] = []
        try:
            begun.extend(pool.submit(work, one) for one in given)
        finally:
            wait(begun)
        return [future.result() for future in begun]

    @contextmanager
    def beside(self, work: Callable[[], object]) -> Iterator[None]:
        """Have it done while the block is (before it if by one thread); it is over when the block is left.

        Raises what the block did, else what the work did.
        """
        if self._threads == 1:
            work()
            yield
            return
        doing = self._working().submit(work)
        try:
            yield
        finally:
            wait([doing])
        doing.result()

    def _working(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = workers(self._threads, "learning")
        return self._pool
