"""Every message that crosses a topic, as a frozen, slotted struct.

Times are integer milliseconds since the Unix epoch (UTC). Ids are UTF-8
strings of 1 to 256 bytes. Numbers are finite. Encoding and decoding between
these structs and bytes lives in `consumers.decoding` and `encode` below.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

MAX_ID_BYTES = 256
MAX_MESSAGE_BYTES = 1 << 20
MAX_NESTING = 32
LEAST_EFFORT = -2
FULL_EFFORT = 4

Scalar = str | int | float | bool | None
Headers = tuple[tuple[str, bytes], ...]


class Undecodable(ValueError):
    """A record that cannot be used; `str(error)` is the reason a person reads."""


class TopicPartition(msgspec.Struct, frozen=True, order=True):
    """A partition of a topic, by the topic's full name."""

    topic: str
    partition: int


class Record(msgspec.Struct, frozen=True):
    """One record as it lies in the log; `timestamp` is the record's own (append) time in ms."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(msgspec.Struct, frozen=True):
    """One record to be written; `partition_key`, or where there is none `key`, chooses the partition."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition_key: bytes | None = None


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something a user did.

    `timestamp` is event time in ms, as the producer said it, not yet clamped.
    Exactly one of `user_id` and `anonymous_id` is the actor, except for an
    `identify` event, which carries both.
    """

    event_type: str
    timestamp: int
    user_id: str | None = None
    anonymous_id: str | None = None
    item_id: str | None = None
    items: tuple[str, ...] = ()
    event_id: str | None = None
    value: float | None = None
    session_id: str | None = None
    request_id: str | None = None
    list: str | None = None
    position: int | None = None
    text: str | None = None
    context: dict[str, Scalar] = {}

    @property
    def actor(self) -> str:
        """The id under which the event's history is kept."""
        return self.user_id or self.anonymous_id or ""


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that can be recommended."""

    item_id: str
    title: str | None = None
    description: str | None = None
    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    timestamp: int | None = None
    attributes: dict[str, Scalar] = {}
    available: bool = True
    expires_at: int | None = None
    vector: tuple[float, ...] | None = None


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a user beside their events."""

    user_id: str
    attributes: dict[str, Scalar] = {}


class Tombstone(msgspec.Struct, frozen=True):
    """A null value on a compacted topic: withdraws the item or erases the user named `key`."""

    key: str


class Source(msgspec.Struct, frozen=True):
    """Where in the input topic a vector's text came from; a lower offset of the same partition is older."""

    partition: int
    offset: int


class Vector(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item's embedding. `vector` is little-endian float32, base64 on the wire, unit length."""

    item_id: str
    vector: bytes
    encoder: str
    text_hash: str
    source: Source


class EventVector(msgspec.Struct, frozen=True, omit_defaults=True):
    """The embedding of one event's text (a search, a review, a chat line)."""

    user_id: str
    event_id: str
    event_type: str
    timestamp: int
    vector: bytes
    encoder: str
    text_hash: str
    source: Source


Message = Event | Item | User | Tombstone | Vector | EventVector


class Reason(msgspec.Struct, frozen=True):
    """One addend of a score: `contribution`s of a row's reasons sum to its score."""

    name: str
    weight: float
    contribution: float


class Recommended(msgspec.Struct, frozen=True):
    """One row of a list."""

    item_id: str
    score: float
    reasons: tuple[Reason, ...] = ()


class Recommendations(msgspec.Struct, frozen=True):
    """A refreshed list for one user (or `*`, everyone unknown)."""

    list: str
    user_id: str
    request_id: str
    generated_at: int
    expires_at: int
    model_version: str
    variant: str
    epoch: int
    trigger_event_id: str | None
    items: tuple[Recommended, ...]


class SimilarItem(msgspec.Struct, frozen=True):
    """One neighbour of an item; `score` is in [0, 1]-like units of the blend, higher is nearer."""

    item_id: str
    score: float


class Similar(msgspec.Struct, frozen=True):
    """The item-to-item list of one item."""

    item_id: str
    generated_at: int
    model_version: str
    epoch: int
    items: tuple[SimilarItem, ...]


class Range(msgspec.Struct, frozen=True, rename={"start": "from", "stop": "to"}):
    """A half-open offset range of one partition, with what was read there.

    `records` counts the records seen (fewer than `stop - start` where markers
    or compaction left gaps). `crc32c` runs over every record's offset (8 bytes,
    big-endian), key and value, each preceded by its length as a signed 4-byte
    big-endian integer, -1 for null.
    """

    topic: str
    partition: int
    start: int
    stop: int
    records: int
    crc32c: int


class Counts(msgspec.Struct, frozen=True):
    """What became of an epoch's event records.

    consumed = trained + duplicate + late + erased + dead_lettered + skipped;
    `lists` counts what was published and stands apart.
    """

    consumed: int = 0
    trained: int = 0
    duplicate: int = 0
    late: int = 0
    erased: int = 0
    dead_lettered: int = 0
    skipped: int = 0
    lists: int = 0

    @property
    def conserved(self) -> bool:
        """Whether every consumed record has exactly one outcome."""
        return self.consumed == (
            self.trained + self.duplicate + self.late + self.erased + self.dead_lettered + self.skipped
        )


class Begin(msgspec.Struct, frozen=True):
    """From which offset on a partition is read, by a learner that has not read it before."""

    topic: str
    partition: int
    at: int


class Poisoned(msgspec.Struct, frozen=True):
    """A record on which the step failed every time, and what it said: a dead letter of this epoch."""

    topic: str
    partition: int
    offset: int
    reason: str


class Without(msgspec.Struct, frozen=True, omit_defaults=True, rename={"start": "from", "stop": "to"}):
    """Events that a rewind leaves out: those to which all that is given applies; every event where nothing is.

    `item_id` also means an impression that shows it. `start` to `stop` are
    offsets (half-open) of `partition`. `since` to `until` (half-open, ms) are
    times of appending: a poisoned feed's own times may be false.
    """

    event_type: str | None = None
    user_id: str | None = None
    anonymous_id: str | None = None
    item_id: str | None = None
    partition: int | None = None
    start: int | None = None
    stop: int | None = None
    since: int | None = None
    until: int | None = None


class Rewind(msgspec.Struct, frozen=True):
    """Epochs after `base` were learned again, without the events that any of `without` names.

    What earlier rewinds left out stays out, unless `restore`. `left_out` counts the events newly left out.
    """

    base: int
    without: tuple[Without, ...]
    restore: bool = False
    left_out: int = 0


class Manifest(msgspec.Struct, frozen=True):
    """What one transaction did: enough, with the log, to do it again.

    `kind` is `epoch`, `claim` (a learner took over), `digest-reset` or `rewind`.
    A claim's `begins` say where partitions that no manifest names yet begin:
    the first claim's where the log does, any later one's at 0. So what retention
    takes before it was read can be told. A digest reset steps over `ranges` that
    were lost before they were read, and names as `missed` those that were read
    once and could not be learned again.
    `clock` is the wall clock in ms that the epoch went by. `effort` is how much
    was learned per event, -2 (scant) to 4 (full; what manifests without it mean).
    `poisoned` are records of its ranges that were set apart unread.
    """

    epoch: int
    instance: str
    kind: str
    ranges: tuple[Range, ...]
    seed: int
    counts: Counts
    watermark: int
    clock: int
    config_hash: str
    fingerprint: str
    input_digest: str
    state_digest: str
    effort: Annotated[int, msgspec.Meta(ge=LEAST_EFFORT, le=FULL_EFFORT)] = FULL_EFFORT
    begins: tuple[Begin, ...] = ()
    poisoned: tuple[Poisoned, ...] = ()
    missed: tuple[Range, ...] = ()
    rewind: Rewind | None = None


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that could not be used, and why. `error` is a class name, `stage` embedder or learner."""

    record: Record
    error: str
    reason: str
    stage: str


_encoder = msgspec.json.Encoder(order="deterministic")


def encode(message: Any) -> bytes:
    """JSON bytes of any message above; the same message always gives the same bytes.

    >>> encode(SimilarItem("a", 0.5))
    b'{"item_id":"a","score":0.5}'
    """
    return _encoder.encode(message)
