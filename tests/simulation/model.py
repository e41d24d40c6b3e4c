"""What must have come of a run, worked out a second time from what was put in and where the manifests cut it.

Shares no code with what it judges but the definition of the sums (`cheap.folded`, `cheap.number`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cheap import LATER_MS, folded, number

LATENESS_MS = 60_000
SKEW_MS = 300_000


@dataclass(frozen=True)
class Put:
    """An input record: where it lies, when it was appended, what it means (bytes: nothing)."""

    topic: str
    partition: int
    offset: int
    stamp: int
    key: str | None
    meaning: Any


@dataclass
class Model:
    """The state after some epochs, and what they published: for each key its values, in order."""

    total: int = 0
    users: dict[int, tuple[int, int]] = field(default_factory=dict)
    due: dict[int, int] = field(default_factory=dict)
    published: dict[str, list[Any]] = field(default_factory=dict)
    dead: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    seen: set[tuple[str, str]] = field(default_factory=set)
    erased: dict[str, int] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)
    _poisoned: set[tuple[str, int, int]] = field(default_factory=set)
    orphans: list[int] = field(default_factory=list)

    def rewound(self, manifests: list[dict[str, Any]], within: Callable[[dict[str, Any]], list[Put]]) -> Model:
        """What counts after a rewind, the last of these manifests: each epoch again, without what is left out of it."""
        again, owed = Model(), dict[int, set[str]]()
        for manifest in manifests:
            if manifest["kind"] == "rewind":
                base = manifest["rewind"]["base"]
                again._owe({user for epoch, users in owed.items() if epoch > base for user in users}, manifest["clock"])
            if manifest["kind"] != "epoch":
                continue
            over = [m for m in manifests if m["rewind"] and m["rewind"]["base"] < manifest["epoch"] < m["epoch"]]
            puts = [put for part in manifest["ranges"] for put in within(part)]
            self._set_apart(manifest)
            # What was set apart is a dead letter whatever it says: no filter looks into it.
            read = [put for put in puts if put.topic == "events" and not self._is_poisoned(put)]
            out = [put for put in read if _left_out(put, over)]
            again.published = {}
            again.follow(manifest, [put for put in puts if put not in out], said=False)
            if over:
                owed[manifest["epoch"]] = {key.removeprefix("home:") for key in again.published}
                owed[manifest["epoch"]] |= {put.meaning["user_id"] for put in out if isinstance(put.meaning, dict)}
        again.published, again.dead, again.outcomes = self.published, self.dead, self.outcomes
        return again

    def _owe(self, users: set[str], clock: int) -> None:
        for row in sorted(map(number, users)):
            if row in self.users:
                self.due[row] = min(clock, self.due.get(row, clock))
            else:
                self.orphans.append(row)

    def follow(self, manifest: dict[str, Any], puts: list[Put], *, said: bool = True) -> None:
        """One epoch; raises AssertionError where its counts (if it says them) are not those of these records."""
        puts = sorted(puts, key=lambda put: (put.topic, put.partition, put.offset))
        self._set_apart(manifest)
        for put in puts:
            if self._is_dead(put):
                self.dead[put.topic, put.partition, put.offset] += 1
            elif put.topic == "items":
                self.total = folded(self.total, number(put.key or ""))
            elif put.topic == "users" and put.meaning is None:
                self._erase(put)
        for row in self.orphans:
            self.published.setdefault(f"home:u{row}", []).append(None)
        self.orphans = []
        counts: Counter[str] = Counter()
        trained, late = self._sorted_out([put for put in puts if put.topic == "events"], counts)
        lists = self._learned(manifest, trained, late)
        counts["lists"] = lists
        if not said:
            return
        told = {name: count for name, count in manifest["counts"].items() if count}
        expected = {name: count for name, count in counts.items() if count}
        assert told == expected, f"epoch {manifest['epoch']}: counts {told}, its records give {expected}"
        self.outcomes.update(counts)

    def _is_dead(self, put: Put) -> bool:
        return isinstance(put.meaning, bytes) or self._is_poisoned(put)

    def _is_poisoned(self, put: Put) -> bool:
        return (f"sim.{put.topic}.v1", put.partition, put.offset) in self._poisoned

    def _set_apart(self, manifest: dict[str, Any]) -> None:
        self._poisoned = {(p["topic"], p["partition"], p["offset"]) for p in manifest["poisoned"]}

    def _erase(self, put: Put) -> None:
        user = put.key or ""
        self.erased[user] = max(put.stamp, self.erased.get(user, put.stamp))
        self.users.pop(number(user), None)
        self.due.pop(number(user), None)
        self.published.setdefault(f"home:{user}", []).append(None)

    def _sorted_out(self, events: list[Put], counts: Counter[str]) -> tuple[list[tuple[int, Put]], list[Put]]:
        timed = []
        for put in events:
            counts["consumed"] += 1
            if self._is_dead(put):
                counts["dead_lettered"] += 1
            else:
                timed.append((min(put.meaning["timestamp"], put.stamp + SKEW_MS), put.partition, put.offset, put))
        trained, late = [], []
        before = dict(self.reached)
        for time, partition, _, put in sorted(timed, key=lambda t: t[:3]):
            event = put.meaning
            user, event_id = event["user_id"], event.get("event_id")
            if put.stamp <= self.erased.get(user, -1 << 60):
                outcome = "erased"
            elif event_id and (user, event_id) in self.seen:
                outcome = "duplicate"
            elif time < before.get(partition, time) - LATENESS_MS:
                outcome = "late"
                late.append(put)
            elif "item_id" not in event:
                outcome = "skipped"
            else:
                outcome = "trained"
                trained.append((time, put))
                self.reached[partition] = max(time, self.reached.get(partition, time))
            if event_id and outcome != "erased":
                self.seen.add((user, event_id))
            counts[outcome] += 1
        return trained, late

    def _learned(self, manifest: dict[str, Any], trained: list[tuple[int, Put]], late: list[Put]) -> int:
        clock, touched = manifest["clock"], set()
        for put in late:
            self._count(number(put.meaning["user_id"]), 0)
        for time, put in trained:
            row = number(put.meaning["user_id"])
            self._count(row, folded(manifest["effort"], number(put.meaning["item_id"]), time))
            touched.add(row)
            if put.meaning["event_type"] == "later":
                self.due[row] = clock + LATER_MS
        for row in [row for row, when in self.due.items() if when <= clock]:
            touched.add(row)
            del self.due[row]
        for row in touched:
            count, own = self.users[row]
            made = {"epoch": manifest["epoch"], "count": count, "own": own, "total": self.total}
            self.published.setdefault(f"home:u{row}", []).append(made)
        return len(touched)

    def _count(self, row: int, value: int) -> None:
        count, own = self.users.get(row, (0, 0))
        self.users[row] = (count + 1, folded(own, value))
        self.total = folded(self.total, row, value)


def _left_out(put: Put, over: list[dict[str, Any]]) -> bool:
    """By any filter that counts: those of the last rewind that restores, and of those after it."""
    filters: list[dict[str, Any]] = []
    for manifest in over:
        filters = ([] if manifest["rewind"]["restore"] else filters) + manifest["rewind"]["without"]
    item = put.meaning.get("item_id") if isinstance(put.meaning, dict) else None
    return any(not one or (item is not None and one == {"item_id": item}) for one in filters)


def decoded(value: bytes | None) -> Any:
    """A published value."""
    return None if value is None else json.loads(value)
