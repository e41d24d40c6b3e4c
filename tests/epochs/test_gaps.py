"""What a start says where the log lacks something, and what stays known of it for ever."""

from __future__ import annotations

import logging
import re

import pytest
from shard import Shard, tiny_settings

from consumers.memory import Crash
from pipeline.epochs.recovery import RecoveryRefused
from pipeline.messages import TopicPartition
from pipeline.runtime.runner import Runner
from producers.memory import Fault


def crashed() -> Shard:
    """Twelve events in epochs of three, the erasure of u1 read with the last; killed without any snapshot."""
    shard = Shard(tiny_settings(epochs={"max_events": 3}), partitions=1)
    for n in range(9):
        shard.event(f"u{n % 3}", f"i{n % 4}", event_id=f"e{n}")
        shard.clock.at += 10
    shard.append("users", "u1", None)
    shard.event("u2", "i1")
    shard.faults += [Fault.NONE] * 5 + [Fault.CRASH_BEFORE_COMMIT]
    with pytest.raises(Crash):
        shard.run([*[lambda: None] * 7, lambda: shard.event("u0", "i1")])
    assert [m.kind for m in shard.manifests()] == ["claim", *["epoch"] * 4]
    return shard


def events_of(shard: Shard) -> TopicPartition:
    return TopicPartition(shard.settings.topic("events"), 0)


def counted(runner: Runner, name: str) -> float | None:
    return runner._parts.metrics.registry.get_sample_value(name)


def test_every_missing_range_is_named_at_once_and_nothing_is_claimed() -> None:
    shard = crashed()
    place = events_of(shard)
    shard.log.delete_before(place, 8)
    with pytest.raises(RecoveryRefused) as refused:
        shard.run()
    assert re.findall(r"(\S+) \[(\d+), (\d+)\)", str(refused.value)) == [(f"{place.topic}-0", "0", "8")]
    assert "--accept-gap" in str(refused.value)
    assert [m.kind for m in shard.manifests()] == ["claim", *["epoch"] * 4]


def test_an_accepted_gap_is_counted_and_told_ever_after(caplog: pytest.LogCaptureFixture) -> None:
    shard = crashed()
    shard.log.delete_before(events_of(shard), 7)
    runner = shard.run(accept_gap=True)
    reset = next(m for m in shard.manifests() if m.kind == "digest-reset")
    assert sum(part.records for part in reset.missed) == 7, "of the fourth epoch's two one is still there"
    for _ in range(2):
        assert counted(runner, "headrace_gaps_accepted_total") == 1
        assert counted(runner, "headrace_gap_records_total") == 7
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            runner = shard.run([lambda: shard.event("u9", "i1")])
        assert "1 gaps accepted, 7 records lost in them" in caplog.text


def test_what_is_left_of_an_epoch_with_a_gap_is_learned_and_its_erasures_hold() -> None:
    shard = crashed()
    users, events = shard.settings.topic("users"), shard.settings.topic("events")
    ranges = next(m.ranges for m in shard.manifests() if users in {part.topic for part in m.ranges})
    shard.log.compact_away(events_of(shard), next(part.start for part in ranges if part.topic == events))
    runner = shard.run(accept_gap=True)
    assert runner.processor is not None
    assert runner.processor.learner.users.ids.find("u1") < 0
    assert runner.processor.learner.users.ids.find("u2") >= 0


def test_a_start_says_where_it_begins_and_what_it_replays(caplog: pytest.LogCaptureFixture) -> None:
    shard = crashed()
    with caplog.at_level(logging.INFO):
        shard.run()
    assert "starting from an empty state, then 5 epochs to replay, 1 to 5: 10 events" in caplog.text
    assert re.search(r"replayed 5 epochs, 10 events in \d+\.\d s \(\d+ events/s\)", caplog.text)
    caplog.clear()
    shard.clock.at += 180_000
    with caplog.at_level(logging.INFO):
        shard.run()
    assert re.search(r"the snapshot of epoch 7 \(\d+\.\d MB, 3 min old\), then 0 epochs to replay", caplog.text)
