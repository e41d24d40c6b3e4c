"""What a learner's log says of its input: soon, seldom, and nothing while nothing comes."""

from __future__ import annotations

import logging
import time

import pytest

from pipeline.epochs.processor import Applied
from pipeline.messages import Counts, DeadLetter, Record
from pipeline.runtime.notices import Notices

NOW = 1_795_900_000_000


def applied(counts: Counts, letters: tuple[DeadLetter, ...] = (), watermark: int = NOW) -> Applied:
    return Applied([], counts, watermark, "", dead_letters=list(letters))


def letter(offset: int, reason: str) -> DeadLetter:
    return DeadLetter(Record("shop.events.v1", 2, offset, NOW, None, b"{"), "Undecodable", reason, "learner")


def lines(caplog: pytest.LogCaptureFixture, wanted: int) -> list[str]:
    end = time.monotonic() + 10
    while len(caplog.messages) < wanted and time.monotonic() < end:
        time.sleep(0.01)
    return caplog.messages


def test_epochs_are_told_together_and_bad_records_with_their_newest_reason(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    notices = Notices(0.2, 0.4)
    notices.committed(
        applied(Counts(consumed=7, trained=5, dead_lettered=2, lists=3), (letter(4, "no"), letter(5, "a")))
    )
    notices.committed(applied(Counts(consumed=4, trained=3, dead_lettered=1), (letter(9, "timestamp: missing"),)))
    assert lines(caplog, 3) == [
        "3 records of shop.events.v1 could not be used and are on shop.events.v1.dlq",
        "the newest of them: shop.events.v1-2@9: timestamp: missing",
        "11 events: 8 trained, 3 dead-lettered; 3 lists published",
    ]
    notices.committed(applied(Counts(consumed=1, late=1)))
    assert lines(caplog, 4)[3:] == ["1 events: 1 late; 0 lists published"]


def test_an_item_alone_that_cannot_be_used_is_told(caplog: pytest.LogCaptureFixture) -> None:
    Notices(0.0).committed(applied(Counts(), (letter(1, "item_id: missing"),)))
    assert len(lines(caplog, 2)) == 2


def test_nothing_is_said_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    Notices(0.0).committed(applied(Counts(lists=1)))
    time.sleep(0.1)
    assert caplog.messages == []


def test_times_in_seconds_are_doubted_once(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices(60.0)
    for _ in range(2):
        notices.committed(applied(Counts(consumed=1, trained=1), watermark=NOW // 1000))
    assert caplog.messages == ["events are of the year 1970: is `timestamp` in seconds? It is wanted in milliseconds"]


@pytest.mark.parametrize("watermark", [-(2**62), NOW, 100_000_000_000])
def test_other_times_are_not(caplog: pytest.LogCaptureFixture, watermark: int) -> None:
    Notices(60.0).committed(applied(Counts(consumed=1, trained=1), watermark=watermark))
    assert caplog.messages == []
