"""What must become of an epoch's events, written a second time: outcomes counted, and who must get a list."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.messages import Event, Output, Record, Tombstone, Undecodable, User
from pipeline.ports import Decoder
from pipeline.settings import Settings

SKEW_MS = 5 * 60 * 1000


class OutcomeModel:
    """Follows a run epoch by epoch, with sets and dicts alone."""

    def __init__(self, settings: Settings, decode: Decoder) -> None:
        self._events = settings.topic("events")
        self._users = settings.topic("users")
        self._learning = settings.learning
        self._publishing = settings.publishing
        self._decode = decode
        self._seen: set[tuple[str, str]] = set()
        self._erased: dict[str, int] = {}
        self._reached: dict[int, int] = {}

    def check(self, manifest: dict[str, Any], records: Sequence[Record], made: Sequence[Output]) -> None:
        """Raises AssertionError where counts or lists are not what these records ask for."""
        outcomes, touched = self.follow(records)
        said = {name: count for name, count in manifest["counts"].items() if name != "lists" and count}
        assert said == dict(outcomes), f"epoch {manifest['epoch']}: counts {said}, the records give {dict(outcomes)}"
        lists = [json.loads(o.value) for o in made if o.value is not None and o.topic.endswith("recommendations.v1")]
        assert len(lists) == manifest["counts"]["lists"], f"epoch {manifest['epoch']}: {len(lists)} lists"
        keys = Counter((made["list"], made["user_id"]) for made in lists)
        assert not keys or max(keys.values()) == 1, f"epoch {manifest['epoch']}: {keys.most_common(1)} lists of a user"
        assert all(made["epoch"] == manifest["epoch"] for made in lists)
        oldest = manifest["clock"] - int(self._publishing.max_age_s * 1000)
        for user, newest in touched.items():
            if newest >= oldest and self._publishing.min_interval_s == 0:
                missing = [name for name in self._publishing.lists if not keys[name, user]]
                assert not missing, f"epoch {manifest['epoch']}: {user} was touched and got no list {missing}"

    def follow(self, records: Sequence[Record]) -> tuple[Counter[str], dict[str, int]]:
        """Take an epoch's records; what became of events, and each touched user's last one."""
        outcomes: Counter[str] = Counter()
        events: list[tuple[int, int, int, Record, Event]] = []
        for record in records:
            if record.topic == self._users:
                self._take_user(record)
            if record.topic != self._events:
                continue
            outcomes["consumed"] += 1
            try:
                event = self._decode(record)
            except Undecodable:
                outcomes["dead_lettered"] += 1
                continue
            assert isinstance(event, Event)
            time = min(event.timestamp, record.timestamp + SKEW_MS)
            events.append((time, record.partition, record.offset, record, event))
        touched: dict[str, int] = {}
        reached = dict(self._reached)
        for time, _, _, record, event in sorted(events, key=lambda e: e[:3]):
            outcome = self._outcome(time, record, event)
            outcomes[outcome] += 1
            if outcome == "trained":
                reached[record.partition] = max(time, reached.get(record.partition, time))
                _touch(touched, event, time)
        self._reached = reached
        return outcomes, touched

    def _take_user(self, record: Record) -> None:
        try:
            user = self._decode(record)
        except Undecodable:
            return
        assert isinstance(user, User | Tombstone)
        if isinstance(user, Tombstone):
            self._erased[user.key] = max(record.timestamp, self._erased.get(user.key, 0))

    def _outcome(self, time: int, record: Record, event: Event) -> str:
        names = [name for name in (event.user_id, event.anonymous_id) if name]
        if any(record.timestamp <= self._erased.get(name, -1) for name in names):
            return "erased"
        if event.event_id:
            key = (event.actor, event.event_id)
            if key in self._seen:
                return "duplicate"
            self._seen.add(key)
        if time < self._reached.get(record.partition, time) - int(self._learning.allowed_lateness_s * 1000):
            return "late"
        if not (event.item_id or event.items or event.text or event.event_type == "identify"):
            return "skipped"
        return "trained"


def _touch(touched: dict[str, int], event: Event, time: int) -> None:
    if event.event_type != "identify":
        touched[event.actor] = time
    elif event.anonymous_id and event.user_id and event.anonymous_id != event.user_id:
        touched.pop(event.anonymous_id, None)
        touched[event.user_id] = time
