"""The judge judged: whatever is done to a finished run, the oracle says what is wrong."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import pytest
from lives import starts_told
from msgspec.structs import replace
from oracle import judge
from replaying import check_fingerprints
from shard import Shard, WholeLog, shop, tiny_settings

from pipeline.messages import Counts, Manifest, Output, Record, TopicPartition
from producers.memory import Crash, Fault, MemorySink


def finished() -> Shard:
    """A run that the oracle has nothing to say about."""
    shard = Shard(tiny_settings(epochs={"max_events": 5}), partitions=1)
    shard.run(islice(shop(shard, random.Random(1), items=4), 40))
    judge(WholeLog(shard), shard.settings)
    return shard


def place(shard: Shard, kind: str) -> TopicPartition:
    return TopicPartition(shard.settings.topic(kind), 0)


def lose_a_list(shard: Shard) -> None:
    where = place(shard, "recommendations")
    records, _ = shard.log.read(where, 0, 3)
    shard.log.compact_away(where, records[1].offset)


def publish_a_list_twice(shard: Shard) -> None:
    where = place(shard, "recommendations")
    record = shard.log.read(where, 0, 1)[0][0]
    shard.log.append(Output(where.topic, record.key, record.value))


def lose_a_similar_list(shard: Shard) -> None:
    where = place(shard, "similar")
    shard.log.compact_away(where, shard.log.read(where, 0, 1)[0][0].offset)


def leave_an_event_unread(shard: Shard) -> None:
    shard.event("u1", "i1")


def lose_a_read_event(shard: Shard) -> None:
    shard.log.compact_away(place(shard, "events"), 2)


def lose_a_dead_letter(shard: Shard) -> None:
    where = place(shard, "events")
    letters = TopicPartition(f"{where.topic}.dlq", 0)
    shard.log.compact_away(letters, shard.log.read(letters, 0, 1)[0][0].offset)


def forge(shard: Shard, **changed: object) -> None:
    """One more manifest, true but for this."""
    last = shard.manifests()[-1]
    true = replace(last, epoch=last.epoch + 1, kind="claim", ranges=(), counts=Counts())
    sink = MemorySink(shard.log, shard.name, shard.settings.topic("epochs"))
    sink.start()
    sink.commit([], replace(true, **changed), {})


def number_twice(shard: Shard) -> None:
    forge(shard, epoch=shard.manifests()[-1].epoch)


def read_twice(shard: Shard) -> None:
    forge(shard, kind="epoch", ranges=shard.manifests()[-1].ranges)


def another_state(shard: Shard) -> None:
    forge(shard, state_digest="f" * 64)


def a_zombie(shard: Shard) -> None:
    forge(shard, instance="another", kind="epoch")


def commit_other_positions(shard: Shard) -> None:
    sink = MemorySink(shard.log, shard.name, group=shard.name)
    sink.start()
    sink.commit([], None, {place(shard, "events"): 1})


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lose_a_list, "replay gives"),
        (publish_a_list_twice, "records, replay gives"),
        (lose_a_similar_list, "replay gives"),
        (leave_an_event_unread, "are in no manifest"),
        (lose_a_read_event, "records, not"),
        (lose_a_dead_letter, "dead letters: missing"),
        (number_twice, "calls itself epoch"),
        (read_twice, "does not"),
        (another_state, "replay gives state"),
        (a_zombie, "the claim by"),
        (commit_other_positions, "manifests at"),
    ],
)
def test_whatever_is_done_to_a_run_is_told(harm: Callable[[Shard], None], complaint: str) -> None:
    shard = finished()
    harm(shard)
    with pytest.raises(AssertionError, match=complaint):
        judge(WholeLog(shard), shard.settings)


def printed(manifest: Manifest) -> dict[str, str]:
    return {"fingerprint": manifest.fingerprint, "config_hash": manifest.config_hash}


class KeptLog(WholeLog):
    """A log as it was, of which only a part is still held."""

    def __init__(self, shard: Shard, before: WholeLog, kinds: Sequence[str]) -> None:
        super().__init__(shard)
        places = before.places([shard.settings.topic(kind) for kind in kinds])
        self._before = {place: (before.start(place), before.partition(place)) for place in places}

    def start(self, place: tuple[str, int]) -> int:
        return self._before[place][0] if place in self._before else super().start(place)

    def held(self, place: tuple[str, int]) -> int:
        return super().start(place)

    def partition(self, place: tuple[str, int]) -> list[Record]:
        _, kept = self._before.get(place, (0, []))
        held, begins = super().partition(place), super().start(place)
        return [record for record in kept if record.offset < begins] + held


def with_a_gap(tmp_path: Path, caplog: pytest.LogCaptureFixture, *, unread: bool) -> tuple[Shard, KeptLog, Path]:
    """A learner crashed, events went that were read (or not) since, and another went on without them."""
    shard = Shard(tiny_settings(epochs={"max_events": 5}), partitions=1)
    stream = shop(shard, random.Random(1), items=4)
    shard.run(islice(stream, 20))
    shard.faults += [Fault.NONE] * 3 + [Fault.CRASH_AFTER_COMMIT]
    with pytest.raises(Crash):
        shard.run(islice(stream, 20))
    for number in range(6):
        shard.event(f"late-{number}", "i1", event_id=f"late-{number}")
    before = KeptLog(shard, WholeLog(shard), ["events"])
    where = place(shard, "events")
    shard.log.delete_before(where, shard.log.end(where) - (2 if unread else 6))
    with caplog.at_level(logging.INFO):
        shard.run(accept_gap=True)
    shard.run([lambda: shard.event("u9", "i1", event_id="after")])
    said = tmp_path / "headrace.log"
    said.write_text("\n".join(record.getMessage() for record in caplog.records), "utf-8")
    return shard, before, said


@pytest.mark.parametrize("unread", [True, False])
def test_an_accepted_gap_is_judged_from_where_that_start_went(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unread: bool
) -> None:
    shard, log, said = with_a_gap(tmp_path, caplog, unread=unread)
    starts = starts_told([said])
    report, _ = judge(log, shard.settings, starts)
    assert (report.resets, report.lost) == (1, 4 if unread else 0)
    assert report.left_out > 0
    with pytest.raises(AssertionError, match="nobody says from where"):
        judge(log, shard.settings)


def test_what_the_log_still_holds_is_not_stepped_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard, log, said = with_a_gap(tmp_path, caplog, unread=True)
    log.held = lambda place: log.start(place)  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="is stepped over, and the log holds"):
        judge(log, shard.settings, starts_told([said]))


def test_software_changes_at_a_digest_reset_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = Shard(tiny_settings(epochs={"max_events": 5}), partitions=1)
    stream = shop(shard, random.Random(1), items=4)
    shard.run(islice(stream, 20))
    with caplog.at_level(logging.INFO):
        shard.run(islice(stream, 10), fingerprint="newer threads-1")
    said = tmp_path / "headrace.log"
    said.write_text("\n".join(record.getMessage() for record in caplog.records), "utf-8")
    report, _ = judge(WholeLog(shard), shard.settings, starts_told([said]))
    assert (report.resets, report.left_out) == (1, 0)
    told = [{"epoch": m.epoch, "kind": m.kind, **printed(m)} for m in shard.manifests()]
    with pytest.raises(AssertionError, match="changed its software or settings"):
        check_fingerprints([*told, told[-1] | {"fingerprint": "newest threads-1"}])
    with pytest.raises(AssertionError, match="changed its software or settings"):
        check_fingerprints([each for each in told if each["kind"] != "digest-reset"])
