"""`headrace run` as one process: what it leaves behind where it cannot start."""

from __future__ import annotations

import socket
import threading

import pytest

from pipeline.runtime.service import serve
from pipeline.runtime.serving import ServingFailed
from pipeline.settings import Settings


def test_a_start_whose_address_is_taken_leaves_no_thread() -> None:
    before, stop = set(threading.enumerate()), threading.Event()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = Settings.model_validate({"metrics": {"port": other.getsockname()[1]}})
        with pytest.raises(ServingFailed):
            serve(settings, None, stop)
    assert set(threading.enumerate()) <= before
    assert not stop.is_set()
