"""A model takes seconds to load, or minutes: a stop does not wait for that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Loaded = TypeVar("Loaded")

_THREAD = "loading"
_LOOK_S = 0.1


class Stopped(Exception):
    """A stop was asked for before all was loaded."""


def loaded(load: Callable[[], Loaded], stop: threading.Event) -> Loaded:
    """What `load` returns or raises; raises Stopped as soon as `stop` is set.

    The load then goes on in a thread of its own, which cannot be ended: see `is_loading`.

    >>> loaded(lambda: 7, threading.Event())
    7
    """
    future: Future[Loaded] = Future()

    def work() -> None:
        try:
            future.set_result(load())
        except BaseException as error:
            future.set_exception(error)

    if not stop.is_set():
        threading.Thread(target=work, name=_THREAD, daemon=True).start()
    while not stop.is_set():
        if wait([future], _LOOK_S).done:
            return future.result()
    raise Stopped("a stop was asked for while a model was being loaded")


def is_loading() -> bool:
    """Whether such a thread goes on: Python's own end would cut it off inside of C++, which aborts the process."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
