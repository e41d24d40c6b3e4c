"""`headrace rewind`: takes a bad period back, learns it again without what was bad, owes those concerned new lists."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from msgspec import structs

from consumers.validation import epoch_ms
from pipeline.epochs.base import base_of
from pipeline.epochs.history import EPOCH, Standing, standing_after
from pipeline.epochs.processor import Processor
from pipeline.epochs.recovery import Recovered, overtaken, recover
from pipeline.epochs.replay import RecoveryRefused, gone, named, records_of
from pipeline.epochs.rewinding import Named, Undone, parted
from pipeline.messages import Event, Manifest, Record, Rewind, Undecodable, Without
from pipeline.ports import CommitUnknown, Fenced
from pipeline.runtime.console import UsageError
from pipeline.runtime.replaying import ReplayReport
from pipeline.runtime.runner import RETRY_S, Parts
from pipeline.runtime.snapshots import SnapshotWriter

log = logging.getLogger(__name__)

ATTEMPTS = 5
KEYS = {
    "type": "event_type", "user": "user_id", "anonymous": "anonymous_id", "item": "item_id",
    "partition": "partition", "from": "start", "to": "stop", "since": "since", "until": "until",
}  # fmt: skip
_TERM = re.compile(r"(?:[^,\\]|\\.)+")


@dataclass
class Survey:
    """What a rewind would do: where it begins, how many events it would learn again, how many it leaves out, whose."""

    start: str
    last: int
    again: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    users: set[str] = field(default_factory=set)
    active: set[str] = field(default_factory=set)

    def row(self, rewind: Rewind) -> dict[str, Any]:
        """For JSON."""
        return {
            "taken_back": [rewind.base + 1, self.last],
            "start": self.start,
            "events_left_out": dict(self.left_out),
            "events_learned_again": self.again,
            "users_left_out": len(self.users),
            "users_with_new_lists": len(self.users | self.active),
        }

    def told(self, rewind: Rewind) -> str:
        """For a person, a line each."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.left_out.most_common())
        return "\n".join(
            [
                f"epochs {rewind.base + 1} to {self.last} are taken back: {self.start}",
                f"left out: {self.left_out.total()} events of {len(self.users)} users{f' ({kinds})' if kinds else ''}",
                f"learned again: {self.again} events",
                f"new lists or tombstones: for {len(self.users | self.active)} users who were active, "
                "and for whoever was published to in these epochs",
            ]
        )


def filter_of(text: str) -> Without:
    """A filter in words: KEY=VALUE, several with commas between them, all of which must apply.

    Raises UsageError. A comma in a value is written with a backslash before it.

    >>> filter_of("type=view,item=a\\\\,b")
    Without(event_type='view', user_id=None, anonymous_id=None, item_id='a,b', partition=None, start=None, stop=None, \
since=None, until=None)
    """
    found: dict[str, str | int] = {}
    for term in _TERM.findall(text):
        key, equals, value = re.sub(r"\\(.)", r"\1", term).partition("=")
        if not equals or not value or key not in KEYS:
            raise UsageError(f"--without: {term!r} must be KEY=VALUE, the key one of {', '.join(KEYS)}")
        found[KEYS[key]] = _value(key, value)
    if not found:
        raise UsageError("--without: names nothing; leave it away to leave out every event")
    if ("start" in found or "stop" in found) and "partition" not in found:
        raise UsageError("--without: from and to are offsets of a partition, which must be named: partition=N")
    return Without(**found)  # type: ignore[arg-type]


def _value(key: str, value: str) -> str | int:
    try:
        if key in ("partition", "from", "to"):
            return int(value)
        if key in ("since", "until"):
            return epoch_ms(key, int(value) if value.isdigit() else value)
    except ValueError as error:
        raise UsageError(f"--without: {key}={value}: {error}") from None
    return value


def survey(parts: Parts, rewind: Rewind) -> Survey:
    """Look at what a rewind would do; changes nothing. Raises RecoveryRefused where it cannot be done."""
    source, sink = parts.make_source(), parts.make_sink()
    try:
        base = base_of(sink, parts.snapshots, parts.make_processor, rewind)
        last = standing_after(base.manifests, base.standing).epoch
        if not 0 <= rewind.base < last:
            raise RecoveryRefused(f"there is no epoch {rewind.base} to go back to: the log ends with epoch {last}")
        if (missing := gone(base.manifests, source.starts())) and not parts.accept_gap:
            raise RecoveryRefused(
                f"the newest state from before is that of epoch {base.standing.epoch}, and the log no longer holds "
                f"what was read since: {named(missing)}. Go on without it with --accept-gap, or to a later epoch."
            )
        found = Survey(base.told(parts.clock.now_ms()), last)
        assert base.manifests.last is not None
        undone = Undone(base.manifests.and_then(structs.replace(base.manifests.last, epoch=last + 1, rewind=rewind)))
        for manifest in base.manifests:
            if manifest.epoch > rewind.base and manifest.kind == EPOCH:
                records, _ = records_of(source, manifest, parts.accept_gap)
                _look(base.processor, manifest, records, undone.without(manifest.epoch), found)
        return found
    finally:
        source.close()
        sink.close()


def _look(
    processor: Processor, manifest: Manifest, records: Sequence[Record], filters: Sequence[Without], found: Survey
) -> None:
    topic = processor.settings.topic("events")
    kept, out = parted(manifest, [r for r in records if r.topic == topic], filters, processor.decode, topic)
    found.again += len(kept)
    for record, event in out:
        whose = Named()
        if event is not None:
            whose.event(record, event)
        found.left_out[event.event_type if event else "unreadable"] += 1
        found.users |= whose.users
    for record in kept:
        whose = Named()
        with suppress(Undecodable):
            message = processor.decode(record)
            if isinstance(message, Event):
                whose.event(record, message)
        found.active |= whose.users


def rewound(parts: Parts, rewind: Rewind) -> Recovered:
    """Take the shard over and do it: a claim, the replay, a manifest that says so, a snapshot of where it leads.

    A crash before the manifest has changed nothing; after it every start comes
    to the same. Raises Fenced where another learner takes over meanwhile,
    RecoveryRefused, CommitUnknown or ConnectionError after several attempts.
    """
    writer = SnapshotWriter(parts.snapshots, parts.settings.epochs, parts.metrics, parts.clock, parts.beside)
    stood = Standing()

    def stand(standing: Standing) -> None:
        nonlocal stood
        stood = standing

    for attempt in range(ATTEMPTS):
        sink, source = parts.make_sink(), None
        try:
            source = parts.make_source()
            with ReplayReport() as report:
                recovered = recover(
                    source, sink, parts.snapshots, parts.make_processor, parts.who, parts.clock,
                    accept_gap=parts.accept_gap, rewind=rewind, on_standing=stand, on_progress=report,
                )  # fmt: skip
            writer.write(recovered.processor, recovered.standing)
            return recovered
        except (Fenced, CommitUnknown, ConnectionError) as error:
            # The broker fences, too, whoever is slow.
            if isinstance(error, Fenced) and overtaken(sink, stood, parts.who.instance):
                raise Fenced("another learner has taken over meanwhile; stop it, then rewind again") from error
            if attempt == ATTEMPTS - 1:
                raise
            log.warning("%s: %s; looking what the log says", type(error).__name__, error)
            time.sleep(RETRY_S)
        finally:
            with suppress(ConnectionError):
                if source is not None:
                    source.close()
                sink.close()
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Outcome:
    """Where a rewind led: how many users' lists are due anew, and of how many they are withdrawn."""

    standing: Standing
    lists: int
    orphans: int

    @classmethod
    def of(cls, recovered: Recovered, clock: int) -> Outcome:
        """Of what came of it, by `clock` in ms."""
        return cls(recovered.standing, *recovered.processor.audience.owed(clock))

    def told(self) -> str:
        """For a person."""
        return (
            f"done: the log stands at epoch {self.standing.epoch}, {self.standing.past}; the next headrace run "
            f"publishes {self.lists} users' lists anew and withdraws those of {self.orphans}"
        )

    def row(self) -> dict[str, Any]:
        """For JSON."""
        past = asdict(self.standing.past)
        return {"epoch": self.standing.epoch, "lists_due": self.lists, "lists_withdrawn": self.orphans, "past": past}
