"""From records to what an epoch acts on: decoded, ordered, deduplicated; late, erased and bad ones set apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import torch
from torch import Tensor

from pipeline.epochs.seen import Seen
from pipeline.learning.tables import KeyMap
from pipeline.messages import (
    DeadLetter,
    Event,
    EventVector,
    Item,
    Poisoned,
    Record,
    Tombstone,
    Undecodable,
    User,
    Vector,
)
from pipeline.ports import Decoder
from pipeline.settings import Settings

CLOCK_SKEW_MS = 5 * 60 * 1000
NO_WATERMARK = -(2**62)
SLOWEST = 8
IDENTIFY = "identify"


class Timed(msgspec.Struct, frozen=True, gc=False):
    """An event with its id and its time clamped to what its record allows."""

    time: int
    event_id: str
    event: Event
    record: Record


@dataclass
class Intake:
    """An epoch's input, sorted out. `counts` has one outcome per event record, `trained` still to be added."""

    items: list[Item | Tombstone] = field(default_factory=list)
    vectors: list[tuple[Record, Vector | Tombstone]] = field(default_factory=list)
    users: list[tuple[Record, User | Tombstone]] = field(default_factory=list)
    texts: list[tuple[Record, EventVector]] = field(default_factory=list)
    events: list[Timed] = field(default_factory=list)
    late: list[Timed] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def set_apart(self, record: Record, error: str, reason: str, *, is_event: bool) -> None:
        """A record becomes a dead letter."""
        self.dead.append(DeadLetter(record, error, reason, "learner"))
        if is_event:
            self.count("dead_lettered")

    def count(self, outcome: str) -> None:
        """One more event record came to `outcome`."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1


class Ledger:
    """What must be remembered of past events to take the next: the watermark, ids seen, users erased."""

    def __init__(self, settings: Settings) -> None:
        self._lateness = int(settings.learning.allowed_lateness_s * 1000)
        self._window = int(settings.learning.dedupe_window_s * 1000)
        self._keyed = hashlib.blake2b(digest_size=8, key=settings.namespace.encode()[:64])
        self.watermark = NO_WATERMARK
        self._reached: dict[int, int] = {}
        self._seen = Seen(self._window)
        self._erased = KeyMap()

    @property
    def remembered(self) -> Seen:
        """The ids of events within the window."""
        return self._seen

    def hash(self, *parts: str) -> int:
        """64-bit keyed hash of ids."""
        return int.from_bytes(self._digest("\0".join(parts)), "little", signed=True)

    def _digest(self, text: str) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(text.encode())
        return keyed.digest()

    def erase(self, user_id: str, cutoff: int) -> None:
        """Events of this user appended at or before `cutoff` are to be ignored."""
        user = self.hash(user_id)
        self._erased.put(user, max(cutoff, self._erased.get(user, cutoff)))

    @property
    def erases(self) -> bool:
        """Whether any user was erased."""
        return len(self._erased) > 0

    def is_erased(self, user_id: str, appended: int) -> bool:
        """Whether something of this user, appended then, falls under an erasure."""
        return self.erases and appended <= self._erased.get(self.hash(user_id), NO_WATERMARK)

    def is_duplicate(self, kind: str, actor: str, event_id: str, time: int) -> bool:
        """Whether this id was taken before, within the window; if not, it is now."""
        return not self._seen.add(self.hash(kind, actor, event_id), time)

    def seen_of(self, taken: Iterable[tuple[str, str]]) -> int:
        """How many of these events (actor, event id) are still remembered, as keyed hashes."""
        return sum(self.hash("event", actor, event_id) in self._seen for actor, event_id in taken)

    def duplicates(self, happened: Sequence[Timed]) -> list[bool]:
        """`is_duplicate` of one event after the other, at a fraction of the time."""
        digests = [self._digest(f"event\0{one.event.actor}\0{one.event_id}") for one in happened]
        times = np.array([one.time for one in happened], dtype=np.int64)
        here: list[bool] = self._seen.add_all(np.frombuffer(b"".join(digests), "<i8"), times).tolist()
        return here

    def is_late(self, partition: int, time: int) -> bool:
        """Whether a time is further behind the greatest of its partition than allowed.

        Partitions are read at their own pace: in a backlog one may be months
        ahead of the next, and none of their events is late for that.
        """
        return time < self._reached.get(partition, NO_WATERMARK) - self._lateness

    def advance(self, happened: Sequence[Timed]) -> None:
        """Move the watermarks; ids older than the window are let go."""
        for one in happened:
            partition = one.record.partition
            self._reached[partition] = max(self._reached.get(partition, NO_WATERMARK), one.time)
            self.watermark = max(self.watermark, one.time)
        slowest = max(min(self._reached.values(), default=NO_WATERMARK), self.watermark - SLOWEST * self._window)
        self._seen.forget_before(slowest - self._window)

    def state(self) -> dict[str, Tensor]:
        """Everything, as tensors."""
        return {
            "ledger.watermark": torch.tensor([self.watermark]),
            "ledger.reached": torch.tensor([*self._reached.keys(), *self._reached.values()], dtype=torch.int64),
            "ledger.erased": torch.from_numpy(np.stack([self._erased.slots, self._erased.values])),
        } | {f"ledger.seen.{name}": tensor for name, tensor in self._seen.state().items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.watermark = int(tensors["ledger.watermark"])
        self._reached = _pairs(tensors["ledger.reached"])
        self._seen.load({name: tensors[f"ledger.seen.{name}"] for name in Seen.STATE})
        self._erased = KeyMap(*tensors["ledger.erased"].numpy().copy())


def take_in(
    records: Sequence[Record],
    decode: Decoder,
    ledger: Ledger,
    events_topic: str,
    poisoned: Sequence[Poisoned] = (),
) -> Intake:
    """Sort an epoch's records out.

    The order of arrival is not recorded and must not matter: records are taken
    by (topic, partition, offset). An erasure holds for events of the same
    epoch. Events are ordered by (time, partition, offset), and only then deduplicated.
    What is poisoned is not even decoded.
    """
    intake = Intake()
    poison = {(p.topic, p.partition, p.offset): p.reason for p in poisoned}
    timed: list[Timed] = []
    for record in sorted(records, key=lambda r: (r.topic, r.partition, r.offset)):
        is_event = record.topic == events_topic
        if is_event:
            intake.count("consumed")
        if poison and (reason := poison.get((record.topic, record.partition, record.offset))) is not None:
            intake.set_apart(record, "Poison", reason, is_event=is_event)
            continue
        try:
            message = decode(record)
        except Undecodable as error:
            intake.set_apart(record, type(error).__name__, str(error), is_event=is_event)
            continue
        if isinstance(message, Event):
            timed.append(_timed(record, message))
        else:
            _sort_in(intake, record, message, events_topic)
    for record, user in intake.users:
        if isinstance(user, Tombstone):
            ledger.erase(user.key, record.timestamp)
    timed.sort(key=lambda t: (t.time, t.record.partition, t.record.offset))
    left = [one for one in timed if not _is_erased(intake, one, ledger)] if ledger.erases else timed
    named = [happened for happened in left if happened.event.event_id]
    doubled = {id(one) for one, again in zip(named, ledger.duplicates(named), strict=True) if again}
    for happened in left:
        _admit(intake, happened, ledger, duplicate=id(happened) in doubled)
    return intake


def _timed(record: Record, event: Event) -> Timed:
    event_id = event.event_id or f"{record.topic}-{record.partition}-{record.offset}"
    return Timed(min(event.timestamp, record.timestamp + CLOCK_SKEW_MS), event_id, event, record)


def _sort_in(intake: Intake, record: Record, message: object, events_topic: str) -> None:
    kind = record.topic.rsplit(".", 2)[-2]
    match message:
        case Item():
            intake.items.append(message)
        case Vector():
            intake.vectors.append((record, message))
        case EventVector():
            intake.texts.append((record, message))
        case User():
            intake.users.append((record, message))
        case Tombstone() if kind == "items":
            intake.items.append(message)
        case Tombstone() if kind == "users":
            intake.users.append((record, message))
        case Tombstone():
            intake.vectors.append((record, message))


def _is_erased(intake: Intake, happened: Timed, ledger: Ledger) -> bool:
    event = happened.event
    erased = any(ledger.is_erased(u, happened.record.timestamp) for u in (event.user_id, event.anonymous_id) if u)
    if erased:
        intake.count("erased")
    return erased


def _admit(intake: Intake, happened: Timed, ledger: Ledger, *, duplicate: bool) -> None:
    event = happened.event
    if duplicate:
        intake.count("duplicate")
    elif event.event_type != IDENTIFY and ledger.is_late(happened.record.partition, happened.time):
        intake.count("late")
        intake.late.append(happened)
    elif not (event.item_id or event.items or event.text or event.event_type == IDENTIFY):
        intake.count("skipped")
    else:
        intake.events.append(happened)


def _pairs(flat: Tensor) -> dict[int, int]:
    half = len(flat) // 2
    return dict(zip(flat[:half].tolist(), flat[half:].tolist(), strict=True))
