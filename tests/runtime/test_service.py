"""`headrace run` as one process: what it says of its health, and what it leaves behind where it cannot start."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from pipeline.runtime import service, serving
from pipeline.runtime.runner import Health
from pipeline.runtime.service import serve
from pipeline.runtime.serving import ServingFailed
from pipeline.settings import Settings

STALLED_S = 0.5


def livez(port: int) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/livez")
        return connection.getresponse().status


class Hanging:
    """A learner that is ready, and then hangs."""

    def __init__(self, health: Health) -> None:
        health.ready.set()

    def run(self, stop: threading.Event) -> None:
        stop.wait()


def seen(stage: str | None, embed: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> int:
    """What /livez says some time after the start."""
    monkeypatch.setattr(serving, "STALLED_S", STALLED_S)
    monkeypatch.setattr(service, "prepare_topics", lambda *_: None)
    monkeypatch.setattr(service, "learner_parts", lambda settings, registry, health, **_: health)
    monkeypatch.setattr(service, "Runner", Hanging)
    monkeypatch.setattr(service, "run_embedder", embed)
    stop, found = threading.Event(), list[int]()

    def look(port: int) -> None:
        time.sleep(3 * STALLED_S)
        found.append(livez(port))
        stop.set()

    serve(Settings.model_validate({"metrics": {"port": 0, "page": False}}), stage, stop, on_ready=look)
    return found[0]


def turning(settings: object, metrics: object, stop: threading.Event, turned: Callable[[float], None]) -> None:
    while not stop.wait(0.01):
        turned(0)


def hanging(settings: object, metrics: object, stop: threading.Event, turned: Callable[[float], None]) -> None:
    stop.wait()


@pytest.mark.parametrize(
    ("stage", "embed", "status"),
    [("embedder", turning, 200), ("embedder", hanging, 503), (None, turning, 503)],
    ids=["an embedder that turns", "an embedder that hangs", "a learner that hangs beside an embedder"],
)
def test_livez_tells_of_the_loop_that_matters(
    stage: str | None, embed: Callable[..., None], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert seen(stage, embed, monkeypatch) == status


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
