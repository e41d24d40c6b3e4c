"""Whether a user is gone: what is found where one is, where one never left, and where the log forgot."""

from __future__ import annotations

from typing import Any

import pytest
from shard import KINDS, Shard, tiny_settings

from consumers.memory import MemorySource
from pipeline.epochs.snapshot import MemorySnapshotStore
from pipeline.messages import Output, TopicPartition
from pipeline.runtime.erasure import Reading, Verdict, verify


def lived(*, erased: bool = True) -> Shard:
    """Three users; u1, once the visitor n, buys, searches and goes."""
    shard = Shard(tiny_settings(epochs={"max_events": 4}), partitions=1)
    steps: list[Any] = [lambda n=n: shard.item(f"i{n}") for n in range(6)]
    steps += [lambda: shard.event("", "i1", user_id=None, anonymous_id="n")]
    steps += [lambda: shard.event("u1", "", "identify", item_id=None, anonymous_id="n")]
    steps += [lambda n=n: shard.event(f"u{n % 3}", f"i{n % 6}", "purchase", event_id=f"e{n}") for n in range(18)]
    steps += [lambda: shard.event("u1", "", "search", item_id=None, text="shoes", event_id="q")]
    shard.run(steps)
    shard.clock.at += 1000
    if erased:
        shard.run([lambda: shard.append("users", "u1", None)])
    shard.clock.at += 1000
    shard.run([lambda: shard.event("u2", "i5")])
    return shard


def reading(shard: Shard) -> Reading:
    topics = [shard.settings.topic(kind) for kind in KINDS]
    named = [*topics, *(f"{topic}.dlq" for topic in topics), shard.settings.topic("recommendations")]
    everything = MemorySource(shard.log, named)
    return Reading(shard.settings, shard.source(), everything, shard.sink(), shard.snapshots, shard.processor)


def checked(shard: Shard, user: str = "u1") -> Verdict:
    before = shard.manifests()
    verdict = verify(reading(shard), user)
    assert shard.manifests() == before, "it only reads"
    return verdict


def test_who_is_erased_is_gone_and_what_they_taught_is_told() -> None:
    verdict = checked(lived())
    assert verdict.is_gone, verdict.told()
    assert verdict.ids == ["n", "u1"]
    assert verdict.exact
    assert verdict.since == 0
    assert verdict.left_out == 1 + 1 + 6 + 1
    assert verdict.seen == 7, "keyed hashes of the ids of six purchases and a search"
    assert verdict.differences is not None
    assert verdict.differences.relative > 0
    assert 0 < verdict.differences.same < verdict.differences.tensors
    assert verdict.differences.lists == 2
    assert verdict.raw == {"headrace.events.v1": 9}
    assert "GONE at epoch" in verdict.told()
    assert "headrace.events.v1 still holds 9 records that name them" in verdict.told()


def test_who_never_was_taught_nothing() -> None:
    shard = lived()
    shard.run([lambda: shard.append("users", "nobody", None)])
    verdict = checked(shard, "nobody")
    assert verdict.is_gone
    assert verdict.left_out == 0
    assert verdict.differences is not None
    assert (verdict.differences.relative, verdict.differences.changed) == (0, 0)
    assert verdict.differences.same == verdict.differences.tensors


def test_who_is_not_erased_is_found() -> None:
    verdict = checked(lived(erased=False))
    assert not verdict.is_gone
    assert verdict.held == ["u1: a history in the user arena", "u1: 1 texts that wait for a vector or an event"]
    assert verdict.lists == ["home:u1"]
    assert "NOT GONE" in verdict.told()
    assert any("no tombstone" in one for one in verdict.unchecked)


def test_who_comes_back_later_is_told_apart() -> None:
    shard = lived()
    shard.clock.at += 5000
    shard.run([lambda: shard.event("u1", "i2")])
    verdict = checked(shard)
    assert verdict.returned_at == shard.clock.at
    assert "came back since" in verdict.told()


def test_a_list_that_was_published_in_spite_of_it_is_found() -> None:
    shard = lived()
    topic = shard.settings.topic("recommendations")
    value = next(r.value for r in shard.log.records(topic) if r.key == b"home:u1" and r.value)
    shard.log.append(Output(topic, b"home:u1", value, (), b"u1"))
    verdict = checked(shard)
    assert (verdict.is_gone, verdict.lists) == (False, ["home:u1"])


@pytest.mark.parametrize("snapshots", ["kept", "lost"])
def test_what_the_log_no_longer_lets_one_check_is_named(snapshots: str) -> None:
    shard = lived()
    place = TopicPartition(shard.settings.topic("events"), 0)
    shard.log.delete_before(place, 8)
    if snapshots == "lost":
        last = shard.snapshots.epochs()[-1]
        kept = shard.snapshots.load(last)
        shard.snapshots = MemorySnapshotStore()
        shard.snapshots.save(last, kept.header, kept.tensors)
    verdict = checked(shard)
    assert verdict.is_gone
    told = " ".join(verdict.unchecked)
    if snapshots == "kept":
        assert verdict.since is not None
        assert verdict.since > 0
        assert f"what they taught up to epoch {verdict.since}" in told
    else:
        assert verdict.differences is None
        assert "what they taught: the log leads on from no state that is left" in told
