"""A record on which the step fails every time becomes a dead letter; all others count once, and nothing is lost."""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import judge
from shard import Shard, WholeLog

from consumers.memory_log import Crash
from pipeline.epochs.disk import FileNote
from pipeline.epochs.poison import DEATHS, FAILURES, MOST_IN_A_ROW, MemoryNote, Note, NotTheRecords, Trials
from pipeline.messages import Message, Record, TopicPartition

EVENTS = 40
BAD = 17


def poisoning(shard: Shard, marker: bytes, harm: Callable[[], BaseException | None]) -> None:
    """The step meets `harm` at each record that holds `marker`: raised in its middle, where messages are decoded."""
    decode = shard.decode

    def harmful(record: Record) -> Message:
        if marker in (record.value or b"") and (error := harm()) is not None:
            raise error
        return decode(record)

    shard.decode = harmful


def filled(events: int = EVENTS, bad: tuple[int, ...] = (BAD,)) -> Shard:
    """Items, and events of which some carry `poison`."""
    shard = Shard()
    for item in range(4):
        shard.item(f"i{item}")
    for number in range(events):
        shard.clock.at += 1000
        text = "poison" if number in bad else None
        shard.event(f"u{number % 5}", f"i{number % 4}", event_id=f"e{number}", text=text)
    return shard


def outcome(shard: Shard) -> tuple[int, int, list[str]]:
    """Events learned and set apart, by the manifests, and the reasons on the dead letter topic."""
    counts = [manifest.counts for manifest in shard.manifests()]
    letters = list(shard.log.records(f"{shard.settings.topic('events')}.dlq"))
    headers = [dict(letter.headers) for letter in letters]
    assert all(header["__connect.errors.exception.class.name"] == b"Poison" for header in headers)
    reasons = [header["__connect.errors.exception.message"].decode() for header in headers]
    return sum(c.trained for c in counts), sum(c.dead_lettered for c in counts), reasons


def test_one_event_that_fails_every_time_is_set_apart_and_all_others_are_learned() -> None:
    shard = filled()
    poisoning(shard, b"poison", lambda: KeyError("no such thing"))
    last = shard.run()
    trained, dead, reasons = outcome(shard)
    assert (trained, dead) == (EVENTS - 1, 1)
    assert len(reasons) == 1
    assert reasons[0].startswith(f"the step failed on it {FAILURES} times: KeyError: 'no such thing'")
    (poisoned,) = [p for manifest in shard.manifests() for p in manifest.poisoned]
    assert poisoned.topic == shard.settings.topic("events")
    assert last.processor is not None
    assert judge(WholeLog(shard), shard.settings)[0].dead_letters == 1
    before = last.processor.state_digest
    shard.event("u1", "i1")
    again = shard.run()
    assert again.processor is not None
    assert again.processor.state_digest != before
    assert outcome(shard)[:2] == (EVENTS, 1)


def test_a_replay_from_nothing_does_not_meet_it_again() -> None:
    shard = filled()
    poisoning(shard, b"poison", lambda: ValueError("again"))
    shard.run()
    claims = len(shard.manifests())
    shard.snapshots = Shard().snapshots
    shard.run()
    assert len(shard.manifests()) == claims + 1
    assert judge(WholeLog(shard), shard.settings)[0].claims >= FAILURES


def test_several_in_one_batch_and_one_after_the_other() -> None:
    bad = (3, 4, 5, 9, 30)
    shard = filled(bad=bad)
    poisoning(shard, b"poison", lambda: ZeroDivisionError("division by zero"))
    shard.run()
    assert outcome(shard)[:2] == (EVENTS - len(bad), len(bad))
    judge(WholeLog(shard), shard.settings)


def test_an_item_is_set_apart_likewise() -> None:
    shard = filled(bad=())
    shard.append("items", "i9", {"item_id": "i9", "title": "poison"})
    poisoning(shard, b"poison", lambda: OverflowError("too large"))
    shard.run()
    letters = list(shard.log.records(f"{shard.settings.topic('items')}.dlq"))
    assert [letter.key for letter in letters] == [b"i9"]
    assert outcome(shard)[:2] == (EVENTS, 0)
    judge(WholeLog(shard), shard.settings)


def test_what_passes_by_itself_costs_nothing() -> None:
    shard = filled()
    left = [FAILURES - 1]

    def now_and_then() -> BaseException | None:
        left[0] -= 1
        return MemoryError("busy") if left[0] >= 0 else None

    poisoning(shard, b"poison", now_and_then)
    shard.run()
    assert outcome(shard) == (EVENTS, 0, [])


def test_a_disk_that_fails_blames_no_record() -> None:
    shard = filled()
    left = [4 * DEATHS]

    def for_a_while() -> BaseException | None:
        left[0] -= 1
        return OSError(28, "No space left on device") if left[0] >= 0 else None

    poisoning(shard, b"poison", for_a_while)
    shard.run()
    assert outcome(shard) == (EVENTS, 0, [])


def test_an_event_that_ends_the_process_every_time_is_found_over_its_lives() -> None:
    shard = filled()
    poisoning(shard, b"poison", lambda: Crash("segmentation fault"))
    deaths = 0
    while True:
        try:
            shard.run()
            break
        except Crash:
            deaths += 1
            assert deaths < 20
    assert deaths >= DEATHS
    trained, dead, reasons = outcome(shard)
    assert (trained, dead) == (EVENTS - 1, 1)
    assert reasons == [f"the step failed on it {DEATHS} times: the process ended in it"]
    judge(WholeLog(shard), shard.settings)


def test_where_every_record_fails_it_stops_and_blames_none_of_them() -> None:
    shard = filled(bad=tuple(range(EVENTS)))
    poisoning(shard, b"poison", lambda: RuntimeError("the model is broken"))
    with pytest.raises(NotTheRecords, match="fails on every record, 10 are set apart already: RuntimeError: the model"):
        shard.run()
    assert outcome(shard)[1] == MOST_IN_A_ROW
    with pytest.raises(NotTheRecords):
        shard.run()
    assert outcome(shard)[1] == MOST_IN_A_ROW
    shard.decode = Shard().decode
    shard.run()
    assert outcome(shard)[:2] == (EVENTS - MOST_IN_A_ROW, MOST_IN_A_ROW)
    judge(WholeLog(shard), shard.settings)


def test_a_step_that_fails_without_records_blames_none() -> None:
    trials = Trials(MemoryNote())
    assert trials.begin({}, []) == ()
    with pytest.raises(NotTheRecords, match="fails without any record: ValueError: empty"):
        trials.failed(ValueError("empty"))


class TestFileNote:
    def test_outlives_the_process_for_its_owner_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        note = FileNote(path)
        assert note.read() == b""
        note.write(b"something long")
        note.write(b"short")
        assert FileNote(path).read() == b"short"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_rubbish_in_it_is_as_good_as_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        for rubbish in (b"{", b"[]", b'{"size":"x"}', b"\xff"):
            path.write_bytes(rubbish)
            assert not Trials(FileNote(path)).suspecting

    def test_a_disk_that_does_not_take_it_is_told_of_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        note = FileNote(tmp_path / "missing" / "attempts")
        with caplog.at_level(logging.WARNING):
            note.write(b"a")
            note.write(b"b")
        assert [record.getMessage() for record in caplog.records] == [
            f"{tmp_path}/missing/attempts: No such file or directory: attempts that end the process are not counted"
        ]


class _Log:
    """A partition with poison at some offsets, read in batches by attempts that may end the process."""

    def __init__(self, length: int, poison: set[int], deadly: set[int]) -> None:
        self.records = [Record("t", 0, n, 0, None, b"") for n in range(length)]
        self.poison, self.deadly = poison, deadly
        self.at, self.attempts = 0, 0
        self.learned: list[int] = []
        self.apart: list[int] = []

    def read(self, note: Note, sizes: Iterator[int]) -> None:
        trials = Trials(note)
        while self.at < len(self.records):
            self.attempts += 1
            batch = self.records[self.at :][: trials.most(next(sizes))]
            apart = {poisoned.offset for poisoned in trials.begin({TopicPartition("t", 0): self.at}, batch)}
            tried = [record.offset for record in batch if record.offset not in apart]
            if self.deadly & set(tried):
                trials = Trials(note)
                continue
            if self.poison & set(tried):
                trials.failed(ValueError("poison"))
                continue
            trials.survived()
            self.learned += tried
            self.apart += sorted(apart)
            self.at += len(batch)
            trials.committed()


VAIN = 2 + 6 + DEATHS
"""Attempts in vain at most for one poison in batches of 64: at all of it twice, at 32, 16, 8, 4 and 2, then alone."""


@settings(max_examples=300, deadline=None)
@example(30, set(), {29}, [1, 29])  # large and small batches by turns: the small ones are no reason to forget
@given(
    st.integers(1, 120),
    st.sets(st.integers(0, 119), max_size=5),
    st.sets(st.integers(0, 119), max_size=3),
    st.lists(st.integers(1, 64), min_size=1, max_size=5),
)
def test_exactly_the_poison_is_set_apart(length: int, poison: set[int], deadly: set[int], sizes: list[int]) -> None:
    log = _Log(length, poison, deadly)

    def batches() -> Iterator[int]:
        while True:
            yield from sizes

    log.read(MemoryNote(), batches())
    bad = sorted(n for n in poison | deadly if n < length)
    assert log.apart == bad
    assert log.learned == [n for n in range(length) if n not in bad]
    assert log.attempts <= length + VAIN * len(bad)
