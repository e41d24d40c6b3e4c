"""What is loaded beside its caller: given, raised, or left to itself at a stop."""

from __future__ import annotations

import threading

import pytest

from pipeline.encoding.loading import Stopped, is_loading, loaded


def test_what_the_load_raises_is_raised() -> None:
    def fails() -> None:
        raise TimeoutError("a disk")

    with pytest.raises(TimeoutError, match="a disk"):
        loaded(fails, threading.Event())


def test_a_stop_does_not_wait_and_the_load_is_known_to_go_on() -> None:
    stop, reached, released = threading.Event(), threading.Event(), threading.Event()

    def load() -> None:
        reached.set()
        released.wait(60)

    def stops() -> None:
        assert reached.wait(60)
        stop.set()

    threading.Thread(target=stops).start()
    try:
        with pytest.raises(Stopped):
            loaded(load, stop)
        assert is_loading()
    finally:
        released.set()


def test_nothing_is_loaded_after_a_stop() -> None:
    stop, begun = threading.Event(), threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        loaded(begun.set, stop)
    assert not begun.is_set()
