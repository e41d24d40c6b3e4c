"""The judge judged: whatever is done to a finished run, the oracle says what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice

import pytest
from msgspec.structs import replace
from oracle import judge
from shard import Shard, WholeLog, shop, tiny_settings

from pipeline.messages import Counts, Output, TopicPartition
from producers.memory import MemorySink


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
