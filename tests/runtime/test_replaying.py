"""What a person sees of a replay: a bar on a terminal, lines elsewhere, and at the end how long it took."""

from __future__ import annotations

import io
import logging
import time

import pytest

from pipeline.epochs.replay import Progress
from pipeline.runtime import replaying
from pipeline.runtime.replaying import ReplayReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def steps(report: ReplayReport, pause_s: float = 0.0) -> None:
    with report:
        for done in range(5):
            time.sleep(pause_s if done else 0)
            report(Progress(done, 4, done * 10, 40))


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with caplog.at_level(logging.INFO):
        steps(ReplayReport(), pause_s=0.15)
    assert "replaying" in screen.getvalue()
    assert "/40" in screen.getvalue()
    assert [record.message.partition(" in ")[0] for record in caplog.records] == ["replayed 4 epochs, 40 events"]
    assert float(caplog.records[0].message.split(" in ")[1].split(" s ")[0]) >= 0.6, "the first epoch counts"


def test_elsewhere_lines_say_how_far_it_is(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr(replaying, "EVERY_S", 0)
    with caplog.at_level(logging.INFO):
        steps(ReplayReport())
    lines = [record.message for record in caplog.records]
    assert len(lines) == 6
    assert lines[2].startswith("replayed 2 of 4 epochs, 20 of 40 events; ")
    assert lines[-1].startswith("replayed 4 epochs, 40 events in ")


def test_a_replay_that_fails_does_not_say_that_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    report = ReplayReport()
    report(Progress(1, 4, 10, 40))
    with caplog.at_level(logging.INFO):
        report.__exit__(RuntimeError, RuntimeError(), None)
    assert caplog.records == []
