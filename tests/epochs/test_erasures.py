"""Who was erased stays away, however often the learner is killed and whichever snapshot it begins with."""

from __future__ import annotations

import json
import os
import random
import re

import pytest
from shard import Shard, tiny_settings

from consumers.memory import Crash
from pipeline.epochs.snapshot import MemorySnapshotStore
from producers.memory import Fault

ROUNDS = int(os.environ.get("HEADRACE_TEST_ERASURES", "25"))
CRASHES = [Fault.CRASH_BEFORE_SEND, Fault.CRASH_BEFORE_COMMIT, Fault.CRASH_AFTER_COMMIT]


def returned(shard: Shard, erased: dict[str, int]) -> list[str]:
    """Erased users who have a list since, or are in the state of a snapshot since; `erased` are times of appending."""
    users = shard.settings.topic("users")
    offsets = {(r.key or b"").decode(): (r.partition, r.offset) for r in shard.log.records(users)}
    parts = [(m.epoch, p) for m in shard.manifests() for p in m.ranges if p.topic == users]
    since = {
        user: epoch
        for user in erased
        for epoch, part in parts
        if part.partition == offsets[user][0] and part.start <= offsets[user][1] < part.stop
    }
    back = []
    for record in shard.log.records(shard.settings.topic("recommendations")):
        user = (record.key or b"").decode().partition(":")[2]
        if record.value is not None and user in since and json.loads(record.value)["epoch"] >= since[user]:
            back.append(f"{user}: a list")
    for epoch in shard.snapshots.epochs():
        raw = b"".join(t.contiguous().numpy().tobytes() for t in shard.snapshots.load(epoch).tensors.values())
        held = {match.decode() for match in re.findall(rb"gone-\d{4}", raw)}
        back += [f"{user}: the state of epoch {epoch}" for user in held if since.get(user, epoch + 1) <= epoch]
    return back


def test_nobody_returns() -> None:
    shard, chance = Shard(tiny_settings(epochs={"max_events": 4})), random.Random(7)
    shard.run([lambda n=n: shard.item(f"i{n}") for n in range(6)])  # type: ignore[misc]
    last = shard.snapshots.epochs()[-1]
    before, erased, old_starts = (last, shard.snapshots.load(last)), dict[str, int](), 0
    for number in range(ROUNDS):
        user = f"gone-{number:04}"
        steps = [lambda n=n, u=user: shard.event(u, f"i{n}", event_id=f"{u}-{n}") for n in range(3)]  # type: ignore
        steps += [lambda u=user: shard.event(u, "", "search", item_id=None, text="x", event_id=f"{u}-q")]  # type: ignore
        shard.run([*steps, lambda: shard.event("u1", f"i{chance.randrange(6)}")])
        if number % 5 == 0:
            before = shard.snapshots.epochs()[-1], shard.snapshots.load(shard.snapshots.epochs()[-1])
        # Read after the tombstone, appended before it: the partitions of a poll come in any order.
        shard.event(user, "i5", event_id=f"{user}-late")
        shard.clock.at += 1
        shard.append("users", user, None)
        erased[user] = shard.clock.at
        shard.clock.at += 1
        shard.text_vector(user, f"{user}-q")
        shard.faults += [Fault.NONE] * chance.randrange(1, 4) + [chance.choice(CRASHES)]
        with pytest.raises(Crash):
            shard.run([lambda: shard.event("u2", f"i{chance.randrange(6)}")] * 20)
        shard.faults.clear()
        if chance.random() < 0.6:
            shard.snapshots, old_starts = MemorySnapshotStore(), old_starts + 1
            shard.snapshots.save(before[0], before[1].header, before[1].tensors)
        assert returned(shard, erased) == []
    shard.run()
    assert returned(shard, erased) == []
    print(f"{ROUNDS} rounds, {len(erased)} users erased, 0 back; {old_starts} starts from a snapshot from before")
    assert old_starts > ROUNDS // 3
