"""`headrace demo`, with a tenth of its events: what it says can be tried is there when it says so."""

from __future__ import annotations

import shlex
import threading
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from service import headrace

from consumers.file import read_jsonl
from pipeline.runtime import demo

LINES = 1_000
LIVE = 40


class Listener:
    """Whoever reads along, and tries what is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.page_at: str | None = None
        self.why: str | None = None
        self.stop = threading.Event()

    def say(self, line: str) -> None:
        self.told.append(line)
        if line.startswith("live page"):
            self.page_at = line.split()[-1]
            assert b"<html" in urllib.request.urlopen(self.page_at, timeout=10).read()
        if "headrace why" in line:
            _, _, asked = line.partition("headrace ")
            done = headrace(*shlex.split(asked))
            assert done.returncode == 0, done.stderr
            self.why = done.stdout
        if "Ctrl-C" in line:
            self.stop.set()


@pytest.mark.timeout(300)
def test_the_page_is_told_while_it_runs_and_what_to_try_once_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def few(path: Path) -> Iterator[tuple[int, bytes]]:
        return islice(read_jsonl(path), LINES)

    monkeypatch.setattr(demo, "read_jsonl", few)
    monkeypatch.setattr(demo, "LIVE_EVENTS", LIVE)
    listener = Listener()
    demo.run_demo("kafka", True, listener.stop, listener.say)
    (learned,) = (n for n, line in enumerate(listener.told) if line.startswith("learned"))
    assert listener.page_at is not None
    assert any(line.startswith("live page") for line in listener.told[:learned])
    (kept,) = (line for line in listener.told if "Kept running" in line)
    assert listener.page_at in kept
    assert listener.why is not None
    assert "the list is the published one, byte for byte" in listener.why
