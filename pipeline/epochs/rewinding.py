"""What rewinds mean: which epochs they took back, which events are left out when those are learned again, who is owed.

A rewind is a manifest of its own: the epochs before it keep their manifests
and numbers. What counts is the list of epochs with the filters over each; a
rewind at number R with base b adds its filter to the epochs of (b, R), or puts
it in the place of earlier ones (`restore`). So rewinds compose, and a state from
within (b, R), a snapshot's for instance, leads nowhere any more.

Only events are ever left out, and with them the texts' vectors that wait for
them. What describes items and users is taken as it was, and so are erasures:
nobody is brought back. A left out event was never seen: sent once more under
the same id, it counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.messages import Event, Manifest, Output, Record, Rewind, Undecodable, Without
from pipeline.ports import Decoder
from pipeline.settings import Settings

EVERYONE = b"*"


class Undone:
    """The rewinds among some manifests, and the epochs that each took back."""

    def __init__(self, manifests: Iterable[Manifest]) -> None:
        self._rewinds = [(m.epoch, m.rewind) for m in manifests if m.rewind is not None]

    def __len__(self) -> int:
        """How many rewinds there are."""
        return len(self._rewinds)

    def by(self, epoch: int) -> int | None:
        """The number of the first rewind that took this epoch, or the state after it, back; None if none did."""
        return next((at for at, rewind in self._rewinds if rewind.base < epoch < at), None)

    def without(self, epoch: int) -> tuple[Without, ...]:
        """What this epoch is to be learned without."""
        return _filters(self._over(epoch))

    def newest(self, epoch: int) -> tuple[tuple[Without, ...], tuple[Without, ...]]:
        """What the newest rewind of all leaves out of an epoch, and what was left out of it before that."""
        newest = max((at for at, _ in self._rewinds), default=0)
        over = self._over(epoch)
        own = next((rewind.without for at, rewind in over if at == newest), ())
        return own, _filters([(at, rewind) for at, rewind in over if at < newest])

    def _over(self, epoch: int) -> list[tuple[int, Rewind]]:
        return [(at, rewind) for at, rewind in self._rewinds if rewind.base < epoch < at]


def _filters(over: Sequence[tuple[int, Rewind]]) -> tuple[Without, ...]:
    filters: tuple[Without, ...] = ()
    for _, rewind in over:
        filters = rewind.without if rewind.restore else (*filters, *rewind.without)
    return filters


def left_out(record: Record, event: Event | None, filters: Sequence[Without]) -> bool:
    """Whether any of the filters names this record of the events topic; `event` is None where it cannot be decoded.

    >>> record = Record("events", 1, 7, 1000, None, b"")
    >>> view = Event("view", 0, user_id="u", item_id="i")
    >>> left_out(record, view, [Without(event_type="view", item_id="j"), Without(user_id="u")])
    True
    >>> left_out(record, None, [Without(user_id="u")]), left_out(record, None, [Without(partition=1, start=7)])
    (False, True)
    """
    return any(_by_place(record, one) and _by_content(event, one) for one in filters)


def _by_place(record: Record, one: Without) -> bool:
    return (
        (one.partition is None or record.partition == one.partition)
        and (one.start is None or record.offset >= one.start)
        and (one.stop is None or record.offset < one.stop)
        and (one.since is None or record.timestamp >= one.since)
        and (one.until is None or record.timestamp < one.until)
    )


def _by_content(event: Event | None, one: Without) -> bool:
    if event is None:
        return one.event_type is one.user_id is one.anonymous_id is one.item_id is None
    return (
        (one.event_type is None or event.event_type == one.event_type)
        and (one.user_id is None or event.user_id == one.user_id)
        and (one.anonymous_id is None or event.anonymous_id == one.anonymous_id)
        and (one.item_id is None or event.item_id == one.item_id or one.item_id in event.items)
    )


@dataclass
class Named:
    """Whose lists a rewind must publish again: ids named by events left out, or by what the new history publishes.

    `texts` are (actor, event id) of events left out whose vectors may wait for them.
    """

    users: set[str] = field(default_factory=set)
    items: set[str] = field(default_factory=set)
    texts: set[tuple[str, str]] = field(default_factory=set)
    reached: int = -(2**62)

    def add(self, other: Named) -> None:
        """These, too."""
        self.users |= other.users
        self.items |= other.items
        self.texts |= other.texts
        self.reached = max(self.reached, other.reached)

    def event(self, record: Record, event: Event) -> None:
        """An event that was left out."""
        self.users.update(user for user in (event.user_id, event.anonymous_id) if user)
        self.items.update(item for item in (event.item_id, *event.items) if item)
        if event.text:
            self.texts.add((event.actor, event.event_id or f"{record.topic}-{record.partition}-{record.offset}"))

    def published(self, outputs: Iterable[Output], settings: Settings) -> None:
        """What an epoch published when it was learned again: nobody has read that, but what it published then."""
        lists, similar = settings.topic("recommendations"), settings.topic("similar")
        for output in outputs:
            if output.topic == lists and output.partition_key not in (None, EVERYONE):
                self.users.add((output.partition_key or b"").decode())
            elif output.topic == similar:
                self.items.add((output.key or b"").decode())


def parted(
    manifest: Manifest, records: Sequence[Record], filters: Sequence[Without], decode: Decoder, events_topic: str
) -> tuple[list[Record], list[tuple[Record, Event | None]]]:
    """An epoch's records, those left out apart, with what they say."""
    if not filters:
        return list(records), []
    kept: list[Record] = []
    out: list[tuple[Record, Event | None]] = []
    poisoned = {(p.topic, p.partition, p.offset) for p in manifest.poisoned}
    for record in records:
        readable = record.topic == events_topic and (record.topic, record.partition, record.offset) not in poisoned
        event = _event(record, decode) if readable else None
        if record.topic == events_topic and left_out(record, event, filters):
            out.append((record, event))
        else:
            kept.append(record)
    return kept, out


def _event(record: Record, decode: Decoder) -> Event | None:
    try:
        message = decode(record)
    except Undecodable:
        return None
    return message if isinstance(message, Event) else None
