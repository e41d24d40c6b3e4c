"""The learner's loop over the in-memory log: hundreds of lives that end in every way, each judged by the oracle."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from oracle import Report, judge
from shard import Script, Shard, WholeLog, shop, tiny_settings

from consumers.memory import Crash, MemorySource
from pipeline.messages import Output
from pipeline.ports import Fenced
from pipeline.runtime import runner as runner_module
from pipeline.runtime.runner import Runner
from producers.memory import Fault, MemorySink

SCHEDULES = int(os.environ.get("HEADRACE_TEST_SCHEDULES", "120"))
AT_ONCE = 40
STEPS = 24


def bits(tensor: torch.Tensor) -> tuple[str, list[int], bytes]:
    """All that a tensor is: NaN equals NaN, and 0 is not -0."""
    return str(tensor.dtype), list(tensor.shape), tensor.detach().contiguous().numpy().tobytes()


def judged(shard: Shard, last: Runner) -> Report:
    """The oracle's report; the survivor's whole state is that of the replay, bit for bit."""
    report, replayed = judge(WholeLog(shard), shard.settings)
    assert last.processor is not None
    survived, expected = last.processor.state(), replayed.state()
    assert survived.keys() == expected.keys()
    different = [name for name in expected if bits(survived[name]) != bits(expected[name])]
    assert not different, f"state differs from a replay's: {different}"
    return report


def idle() -> None:
    """A turn in which nothing happens."""


def published(shard: Shard) -> list[bytes | None]:
    """The keys of all lists, partition by partition."""
    return [record.key for record in shard.log.records(shard.settings.topic("recommendations"))]


def lives(shard: Shard, steps: Iterator[Callable[[], object]], most: int = 60) -> Runner:
    """Start runners, one after the other, over one script, until one comes to its end."""
    for _ in range(most):
        runner = shard.runner()
        try:
            runner.run(shard.script(steps))
        except Crash:
            continue
        return runner
    raise AssertionError(f"still crashing after {most} lives")


def scheduled(seed: int) -> tuple[Shard, Report]:
    """One random schedule: faults of commits, crashes in polls and in the log, snapshots now and then."""
    chance = random.Random(seed)
    interval = chance.choice((1e-9, 0.02, 1e9))
    epochs = {"max_events": chance.choice((1, 3, 7, 64)), "snapshot_interval_s": interval}
    shard = Shard(tiny_settings(epochs=epochs, publishing={"similar_size": chance.choice((0, 3))}))
    faults = [fault for fault in Fault if fault is not Fault.NONE]
    shard.faults += [chance.choice(faults) if chance.random() < 0.25 else Fault.NONE for _ in range(20)]
    shard.crash_after += [chance.randrange(12) for _ in range(chance.randrange(3))]
    steps = islice(shop(shard, chance, items=4), STEPS)
    for step in islice(steps, chance.randrange(STEPS)):
        step()
    return shard, judged(shard, lives(shard, steps))


@pytest.mark.parametrize("first", range(0, SCHEDULES, AT_ONCE))
def test_no_schedule_of_crashes_loses_or_doubles_an_event(first: int) -> None:
    outcomes: dict[str, int] = {}
    for seed in range(first, first + AT_ONCE):
        try:
            _, report = scheduled(seed)
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
        for outcome, count in report.counts.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
    assert min(outcomes.values()) > 0, f"no schedule came to one of the outcomes: {outcomes}"


@pytest.mark.parametrize("fault", list(Fault))
@pytest.mark.parametrize("commit", range(5))
def test_a_fault_at_any_commit_the_claim_included(fault: Fault, commit: int) -> None:
    shard = Shard()
    shard.faults += [*[Fault.NONE] * commit, fault]
    report = judged(shard, lives(shard, islice(shop(shard, random.Random(commit)), 30)))
    again = fault is not Fault.NONE
    assert report.claims == 1 + again * (commit > 0 or fault in (Fault.CRASH_AFTER_COMMIT, Fault.UNKNOWN_COMMITTED))


def test_an_idle_stream_makes_no_epochs() -> None:
    shard = Shard()
    runner = shard.run(islice(shop(shard, random.Random(1)), 30))
    before = shard.manifests()
    shard.clock.at += 3_600_000
    runner = shard.run([idle] * 50)
    assert [manifest.kind for manifest in shard.manifests()[len(before) :]] == ["claim"]
    assert judged(shard, runner).claims == 2


def test_a_list_that_waits_for_its_interval_comes_without_an_event() -> None:
    shard = Shard(tiny_settings(publishing={"min_interval_s": 60}))
    shard.item("a")
    shard.event("u", "a")
    shard.run([idle, idle, idle, lambda: shard.event("u", "a")])
    assert published(shard).count(b"home:u") == 1
    runner = shard.run([idle, idle, idle, lambda: setattr(shard.clock, "at", shard.clock.at + 61_000), idle])
    assert published(shard).count(b"home:u") == 2
    assert shard.manifests()[-1].ranges == ()
    judged(shard, runner)


def test_stopping_finishes_the_epoch_and_leaves_a_snapshot_of_it() -> None:
    shard = Shard()
    runner = shard.run(islice(shop(shard, random.Random(2)), 40))
    last = shard.manifests()[-1]
    assert runner.standing.epoch == last.epoch
    assert shard.snapshots.epochs()[-1] == last.epoch
    assert shard.snapshots.load(last.epoch).header["state_digest"] == last.state_digest
    judged(shard, runner)


def test_a_stop_during_recovery_is_obeyed() -> None:
    shard = Shard(tiny_settings(epochs={"max_events": 1}))
    shard.faults += [Fault.NONE] * 40 + [Fault.CRASH_BEFORE_COMMIT]
    with pytest.raises(Crash):
        shard.run(islice(shop(shard, random.Random(2)), 60))
    runner, stop = shard.runner(), Script([], lambda: False)
    applied: list[int] = []
    shard_processor = shard.processor

    def counted(*arguments: Any) -> Any:
        processor = shard_processor(*arguments)
        apply = processor.apply

        def counting(epoch: int, *rest: Any, **more: Any) -> Any:
            applied.append(epoch)
            if len(applied) == 5:
                stop.set()
            return apply(epoch, *rest, **more)

        processor.apply = counting  # type: ignore[method-assign]
        return processor

    shard.processor = counted  # type: ignore[method-assign]
    runner.run(stop)
    assert len(applied) == 5


def test_new_partitions_are_noticed_and_read_from_their_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "NEW_PARTITIONS_S", 0)
    shard = Shard(partitions=2)
    events = shard.settings.topic("events")

    def grow() -> None:
        shard.log.create(events, 5)
        for n in range(20):
            shard.event(f"new-{n}", "i1", event_id=f"n{n}")

    runner = shard.run([*islice(shop(shard, random.Random(3)), 30), grow])
    report = judged(shard, runner)
    read = {part.partition for m in shard.manifests() for part in m.ranges if part.topic == events}
    assert read == {0, 1, 2, 3, 4}
    assert report.events == len(list(shard.log.records(events)))


def test_the_elder_of_two_learners_ends_for_good() -> None:
    shard = Shard()
    stream = shop(shard, random.Random(4))
    younger: list[Runner] = []

    def take_over() -> None:
        younger.append(shard.run(islice(stream, 10), instance="younger"))
        next(stream)()

    with pytest.raises(Fenced, match="instance younger has taken over"):
        shard.run([*islice(stream, 20), take_over], instance="elder")
    last = shard.run(islice(stream, 10), instance="third")
    report = judged(shard, last)
    assert report.claims == 3
    assert [m.instance for m in shard.manifests() if m.kind == "claim"] == ["elder", "younger", "third"]


def test_a_transaction_timed_out_by_the_broker_ends_nobody() -> None:
    shard = Shard()
    stream = shop(shard, random.Random(5))

    def time_out() -> None:
        shard.log.take_over(shard.name)
        next(stream)()

    shard.run(islice(stream, 10), instance="before")
    runner = shard.run([*islice(stream, 20), time_out, *islice(stream, 10)], instance="after")
    assert judged(shard, runner).claims == 3
    assert [m.instance for m in shard.manifests() if m.kind == "claim"] == ["before", "after", "after"]


def test_a_claim_timed_out_by_the_broker_blames_no_one_who_is_dead() -> None:
    shard = Shard()
    stream = shop(shard, random.Random(6))
    shard.run(islice(stream, 20), instance="dead")
    slow = [True]

    class SlowClaim(MemorySink):
        def commit(self, outputs: Any, manifest: Any, positions: Any) -> Any:
            if slow:
                slow.pop()
                shard.log.take_over(shard.name)
            return super().commit(outputs, manifest, positions)

    def make_sink() -> MemorySink:
        return SlowClaim(shard.log, shard.name, shard.settings.topic("epochs"), group=shard.name)

    runner = shard.run(islice(stream, 10), make_sink=make_sink, instance="alive")
    assert judged(shard, runner).claims == 2


def test_kafka_out_of_reach_is_waited_for() -> None:
    shard = Shard()
    away = ["source", "manifests"]

    class Away(MemorySink):
        def manifests(self, *start: int) -> Any:
            if away:
                away.pop()
                raise ConnectionError("no broker")
            return super().manifests(*start)

    def make_source() -> MemorySource:
        if away == ["source"]:
            away.pop()
            raise ConnectionError("no broker")
        return shard.source()

    def make_sink() -> MemorySink:
        return Away(shard.log, shard.name, shard.settings.topic("epochs"), group=shard.name)

    stream = islice(shop(shard, random.Random(7)), 30)
    runner = shard.run(stream, make_source=make_source, make_sink=make_sink)
    assert away == []
    assert judged(shard, runner).claims == 1


def test_kafka_out_of_reach_while_asking_who_fenced_us() -> None:
    shard = Shard()
    stream = shop(shard, random.Random(8))
    away = [False]

    class Away(MemorySink):
        def manifests(self, *start: int) -> Any:
            if away[0]:
                away[0] = False
                raise ConnectionError("no broker")
            return super().manifests(*start)

    def make_sink() -> MemorySink:
        return Away(shard.log, shard.name, shard.settings.topic("epochs"), group=shard.name)

    def fence() -> None:
        shard.log.take_over(shard.name)
        away[0] = True
        next(stream)()

    runner = shard.run([*islice(stream, 20), fence, *islice(stream, 5)], make_sink=make_sink)
    assert judged(shard, runner).claims == 2


def test_a_withdrawn_list_lies_where_the_users_lists_lie() -> None:
    shard = Shard(partitions=5)
    stream = shop(shard, random.Random(9))
    runner = shard.run(islice(stream, 60))
    report = judged(shard, runner)
    places: dict[bytes, set[int]] = {}
    for record in shard.log.records(shard.settings.topic("recommendations")):
        places.setdefault(record.key or b"", set()).add(record.partition)
    assert report.tombstones > 0
    assert all(len(partitions) == 1 for partitions in places.values())
    alone = Shard(partitions=5)
    alone.log.append(Output(alone.settings.topic("recommendations"), b"u1", b""))
    assert {r.partition for r in alone.log.records(alone.settings.topic("recommendations"))} == places[b"home:u1"]
