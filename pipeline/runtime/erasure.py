"""`headrace erase --verify`: is a user gone, what that they taught stays, what can the log no longer let one check.

It reads and changes nothing, beside a learner that may be running: snapshots
and log give the live state again, and from the oldest state that the log leads
on from everything is learned twice, once as it is and once without any record
of the user.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from operator import eq
from typing import Any

from pipeline.epochs.base import Base, base_of
from pipeline.epochs.history import EPOCH, standing_after
from pipeline.epochs.intake import IDENTIFY
from pipeline.epochs.processor import Processor
from pipeline.epochs.replay import gone, named, records_of, replay
from pipeline.epochs.rewinding import Undone, parted
from pipeline.epochs.snapshot import ChosenSnapshots
from pipeline.epochs.tail import Tail
from pipeline.messages import Event, EventVector, Record, Tombstone, Undecodable, User
from pipeline.ports import Decoder, Sink, SnapshotStore, Source
from pipeline.runtime.comparing import Compared, compared
from pipeline.runtime.scanning import scanned
from pipeline.settings import Settings
from pipeline.showing import utc

SAMPLE = 100


@dataclass(frozen=True)
class Reading:
    """Where to read: the log's inputs (replayed), all topics that may name a user (scanned), manifests, snapshots."""

    settings: Settings
    source: Source
    everything: Source
    sink: Sink
    snapshots: SnapshotStore
    fresh: Callable[[], Processor]


@dataclass
class Traces:
    """What the topics hold of a user, by who they were (`ids`: user and visitor ids), times in ms of appending.

    `raw` counts records by topic that name them; `lists` are keys whose last value is no tombstone.
    """

    ids: set[str]
    erased_at: int | None = None
    returned_at: int | None = None
    raw: dict[str, int] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    event_ids: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class Verdict:
    """What was found. `held` names where the live state still has the user: empty, or they were not erased.

    `seen` keyed hashes of event ids stay in the dedupe window until that has
    passed. `since` is the epoch from which on all was learned again; `exact`
    whether that, done as it is, came to the live state's digest.
    """

    ids: list[str]
    epoch: int
    erased_at: int | None
    returned_at: int | None
    held: list[str]
    lists: list[str]
    seen: int
    raw: dict[str, int]
    unchecked: list[str]
    since: int | None = None
    exact: bool = False
    left_out: int = 0
    differences: Compared | None = None

    @property
    def is_gone(self) -> bool:
        """Erased, not come back since, and in no state and no list."""
        return self.erased_at is not None and not self.held and not self.lists

    def told(self) -> str:
        """For a person, a line each."""
        when = f"erased {utc(self.erased_at)}" if self.erased_at is not None else "no tombstone"
        lines = [f"{', '.join(self.ids)}: {'GONE' if self.is_gone else 'NOT GONE'} at epoch {self.epoch} ({when})"]
        if self.returned_at is not None:
            lines.append(f"came back since: their last event is of {utc(self.returned_at)}, after the tombstone")
        lines += [f"still held: {one}" for one in self.held] + [f"still published: {key}" for key in self.lists]
        if self.seen:
            lines.append(f"{self.seen} keyed hashes of their event ids stay until the dedupe window has passed")
        if self.differences is not None:
            far = self.differences
            came = "it came" if self.exact else "it did NOT come"
            lines += [
                f"learned again from epoch {self.since}: as it is, {came} to the live state's digest; "
                f"without {self.left_out} records of theirs:",
                f"  shared weights: {far.same} of {far.tensors} tensors equal, relative difference {far.relative:.2e}",
                *(f"    {name}: {size:.2e}" for name, size in far.largest.items()),
                f"  {far.changed} of {far.lists} other users' lists would differ; "
                f"{far.kept:.1%} of their items would be the same",
            ]
        return "\n".join([*lines, *(f"not checked, or left: {one}" for one in self.unchecked)])

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"gone": self.is_gone}


def verify(reading: Reading, user: str, progress: Callable[[str], None] = lambda text: None) -> Verdict:
    """Check one user. Raises RecoveryRefused where not even the live state can be had."""
    progress("looking through the topics")
    traces = traces_of(reading.everything, reading.settings, reading.fresh().decode, user)
    progress("bringing the live state back")
    base = base_of(reading.sink, reading.snapshots, reading.fresh)
    live = base.processor
    undone = Undone(base.manifests)
    replay(live, reading.source, base.manifests, undone, accept_gap=True, exact=False)
    last = standing_after(base.manifests, base.standing)
    verdict = Verdict(
        sorted(traces.ids), last.epoch, traces.erased_at, traces.returned_at, _held(live, traces), traces.lists,
        live.ledger.seen_of(traces.event_ids), traces.raw, _unchecked(traces),
    )  # fmt: skip
    start = _oldest(reading, last.epoch)
    if start is None:
        verdict.unchecked.append(
            "what they taught: the log leads on from no state that is left; it begins after all snapshots"
        )
        return verdict
    if start.standing.epoch:
        verdict.unchecked.append(f"what they taught up to epoch {start.standing.epoch}: the log before that is gone")
    _relearn(reading, start, traces.ids, verdict, live.state_digest, progress)
    return verdict


def _relearn(
    reading: Reading, start: Base, ids: set[str], verdict: Verdict, digest: str, progress: Callable[[str], None]
) -> None:
    """Everything from a state on, as it is and without a user."""
    undone = Undone(start.manifests)
    verdict.since = start.standing.epoch
    without = reading.fresh()
    without.load({name: tensor.clone() for name, tensor in start.processor.state().items()})
    for user in sorted(ids):
        without.joiner.forget(user)
        without.learner.erase(user)
    progress(f"learning epochs {start.standing.epoch + 1} to {verdict.epoch} again, as they are")
    done = replay(start.processor, reading.source, start.manifests, undone, accept_gap=True, exact=False)
    verdict.exact = not done.missed and start.processor.state_digest == digest
    if done.missed:
        verdict.unchecked.append(f"records that the log holds no more: {named(done.missed)}")
    progress(f"learning epochs {start.standing.epoch + 1} to {verdict.epoch} again, without {', '.join(sorted(ids))}")
    verdict.left_out = _without(without, reading.source, start.manifests, undone, ids)
    verdict.differences = compared(start.processor, without, ids, SAMPLE)


def traces_of(source: Source, settings: Settings, decode: Decoder, user: str) -> Traces:
    """One pass over every topic to find who else the user was, a second for what names any of these."""
    ids = {user}
    events, users = settings.topic("events"), settings.topic("users")
    for record in chain.from_iterable(scanned(source)):
        if record.topic == events:
            event = _decoded(record, decode)
            if isinstance(event, Event) and event.event_type == IDENTIFY and event.user_id == user:
                ids.add(event.anonymous_id or user)
    found, last = Traces(ids), dict[str, bool]()
    keys = {f"{name}:{one}": one for name in settings.publishing.lists for one in ids}
    for record in chain.from_iterable(scanned(source)):
        message = _decoded(record, decode)
        key = (record.key or b"").decode("utf-8", "replace")
        if record.topic == settings.topic("recommendations"):
            if key in keys:
                last[key] = record.value is not None
            continue
        if record.topic == users and isinstance(message, Tombstone) and message.key == user:
            found.erased_at = max(record.timestamp, found.erased_at or record.timestamp)
        elif concerns(message, ids) or (record.topic.endswith(".dlq") and _mentions(record, ids)):
            found.raw[record.topic] = found.raw.get(record.topic, 0) + 1
        if isinstance(message, Event) and concerns(message, ids):
            found.returned_at = max(record.timestamp, found.returned_at or 0)
            if message.event_id:
                found.event_ids.add((message.actor, message.event_id))
    if found.erased_at is None or (found.returned_at or 0) <= found.erased_at:
        found.returned_at = None
    found.lists = sorted(key for key, there in last.items() if there)
    return found


def concerns(message: object, ids: set[str]) -> bool:
    """Whether a message is by or about any of these ids."""
    match message:
        case Event():
            return message.user_id in ids or message.anonymous_id in ids
        case EventVector() | User():
            return message.user_id in ids
    return False


def _decoded(record: Record, decode: Decoder) -> object:
    with suppress(Undecodable):
        return decode(record)
    return None


def _mentions(record: Record, ids: set[str]) -> bool:
    return any(one.encode() in (record.key or b"") + b" " + (record.value or b"") for one in ids)


def _held(live: Processor, traces: Traces) -> list[str]:
    held = []
    for one in sorted(traces.ids):
        if live.learner.users.ids.find(one) >= 0:
            held.append(f"{one}: a history in the user arena")
        if waiting := live.joiner.waiting_of(one):
            held.append(f"{one}: {waiting} texts that wait for a vector or an event")
    return held


def _unchecked(traces: Traces) -> list[str]:
    told = []
    if traces.erased_at is None:
        told.append("the erasure: the users topic holds no tombstone of them (never sent, or compacted away since)")
    for topic, count in sorted(traces.raw.items()):
        until = "until somebody deletes them" if topic.endswith(".dlq") else "until its retention"
        told.append(f"{topic} still holds {count} records that name them, {until}")
    return told


def _oldest(reading: Reading, last: int) -> Base | None:
    """The oldest state from which the log leads on to an epoch without a gap; None if there is none."""
    starts = reading.source.starts()
    for epoch in (0, *reading.snapshots.epochs()):
        base = base_of(reading.sink, ChosenSnapshots(reading.snapshots, partial(eq, epoch)), reading.fresh)
        manifests = [m for m in base.manifests if m.epoch <= last]
        whole = bool(manifests) and manifests[0].epoch == base.standing.epoch + 1
        if base.standing.epoch == epoch and whole and not gone(manifests, starts):
            return Base(base.processor, base.standing, base.known, Tail(partial(iter, manifests)))
    return None


def _without(
    processor: Processor, source: Source, manifests: Tail, undone: Undone, ids: set[str]
) -> int:
    """Learn epochs without any record of some ids, and without what rewinds left out; how many were left out."""
    topic, count = processor.settings.topic("events"), 0
    for manifest in manifests:
        if manifest.kind != EPOCH:
            continue
        records, _ = records_of(source, manifest, True)
        kept, _ = parted(manifest, records, undone.without(manifest.epoch), processor.decode, topic)
        theirs = [record for record in kept if concerns(_decoded(record, processor.decode), ids)]
        others = [record for record in kept if record not in theirs]
        processor.apply(manifest.epoch, others, manifest.clock, manifest.effort, poisoned=manifest.poisoned)
        count += len(theirs)
    return count
