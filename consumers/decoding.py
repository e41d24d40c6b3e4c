"""Records into messages: strict JSON, every refusal with a reason that a person can act on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from consumers.cloudevents import is_cloudevent, unwrap
from consumers.diagnosis import malformed, mistyped
from consumers.validation import (
    check_id,
    check_integer,
    check_nesting,
    check_scalars,
    check_vector,
    epoch_ms,
)
from pipeline.messages import (
    MAX_MESSAGE_BYTES,
    Event,
    EventVector,
    Item,
    Message,
    Record,
    Scalar,
    Tombstone,
    Undecodable,
    User,
    Vector,
)

KINDS = ("events", "items", "users", "vectors", "event-vectors")
COMPACTED = frozenset({"items", "users", "vectors"})
WITHOUT_ITEM = frozenset({"search", "identify"})

_EVENT_IDS = ("user_id", "anonymous_id", "item_id", "event_id", "session_id", "request_id", "list")


class EventWire(msgspec.Struct, gc=False):
    """An event's fields as they are received: null is as good as absent."""

    event_type: str
    timestamp: int | str
    user_id: str | None = None
    anonymous_id: str | None = None
    item_id: str | None = None
    items: tuple[str, ...] | None = None
    event_id: str | None = None
    value: float | None = None
    session_id: str | None = None
    request_id: str | None = None
    list: str | None = None
    position: int | None = None
    text: str | None = None
    context: dict[str, Scalar] | None = None


class ItemWire(msgspec.Struct, gc=False):
    """An item's fields as they are received."""

    item_id: str
    title: str | None = None
    description: str | None = None
    categories: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    timestamp: int | str | None = None
    attributes: dict[str, Scalar] | None = None
    available: bool | None = None
    expires_at: int | str | None = None
    vector: tuple[float, ...] | None = None


class _ItemOrEvent(ItemWire, gc=False):
    """With the fields by which an event is known that went to the wrong topic."""

    event_type: object = None
    user_id: object = None
    anonymous_id: object = None


class UserWire(msgspec.Struct, gc=False):
    """A user's fields as they are received."""

    user_id: str
    attributes: dict[str, Scalar] | None = None


class JsonDecoder:
    """A `ports.Decoder` for JSON, plain or in a CloudEvent, by the topic that a record came from.

    Beyond the contract: at most 64 keys in `context` and `attributes`, at most
    8192 numbers in `vector`; of duplicate keys the last counts; a byte-order
    mark is refused; an event without an item is one that is a search or an
    identify, or has text. The id in the value counts, not the record's key.
    """

    def __init__(self, topics: Mapping[str, str]) -> None:
        """`topics` maps each topic's full name to its kind, one of `KINDS`."""
        unknown = sorted(set(topics.values()) - set(KINDS))
        if unknown:
            raise ValueError(f"unknown kinds {unknown}; known: {', '.join(KINDS)}")
        self._kinds = dict(topics)
        self._decode: dict[str, Callable[[bytes], Message]] = {
            "events": _reader(EventWire, _event),
            "items": _reader(_ItemOrEvent, _item),
            "users": _reader(UserWire, _user),
            "vectors": _reader(Vector, _vector),
            "event-vectors": _reader(EventVector, _event_vector),
        }

    def __call__(self, record: Record) -> Message:
        """The record's message; raises Undecodable with the reason."""
        kind = self._kinds.get(record.topic)
        if kind is None:
            raise Undecodable(f"topic {record.topic} is none of those read here")
        value = record.value
        if value is None:
            return _tombstone(kind, record.key)
        if len(value) > MAX_MESSAGE_BYTES:
            raise Undecodable(f"value must be at most {MAX_MESSAGE_BYTES} bytes, found {len(value)}")
        check_nesting(value)
        if record.headers and is_cloudevent(record.headers):
            value = unwrap(record.headers, value)
        return self._decode[kind](value)


def _reader(wire: type[Any], normalise: Callable[[Any], Message]) -> Callable[[bytes], Message]:
    parse = msgspec.json.Decoder(wire).decode

    def read(value: bytes) -> Message:
        try:
            # Fields that are not asked for are skipped unread, whatever bytes they hold.
            if not value.isascii():
                value.decode()
            decoded = parse(value)
        except msgspec.ValidationError as error:
            raise Undecodable(mistyped(error, value)) from None
        except (ValueError, RecursionError):
            raise Undecodable(malformed(value)) from None
        return normalise(decoded)

    return read


def _tombstone(kind: str, key: bytes | None) -> Tombstone:
    if kind not in COMPACTED:
        raise Undecodable(f"value is null: a tombstone in {kind} means nothing")
    if key is None:
        raise Undecodable("value and key are null: a tombstone needs the key of what it withdraws")
    try:
        name = key.decode()
    except UnicodeDecodeError:
        raise Undecodable("key: must be UTF-8") from None
    check_id("key", name)
    return Tombstone(name)


def _event(wire: EventWire) -> Event:
    check_id("event_type", wire.event_type)
    for field in _EVENT_IDS:
        given = getattr(wire, field)
        if given is not None:
            check_id(field, given)
    if wire.items:
        for each in wire.items:
            check_id("items", each)
    if wire.position is not None:
        check_integer("position", wire.position)
    if wire.context:
        check_scalars("context", wire.context)
    if wire.event_type == "identify":
        if wire.user_id is None or wire.anonymous_id is None:
            raise Undecodable("identify: needs both user_id and anonymous_id")
    elif wire.user_id is None and wire.anonymous_id is None:
        raise Undecodable("user_id: missing; an event needs user_id or anonymous_id")
    if wire.item_id is None and not wire.items and wire.event_type not in WITHOUT_ITEM and not wire.text:
        raise Undecodable("item_id: missing; an event needs item_id or items, unless a search or with text")
    return Event(
        wire.event_type,
        epoch_ms("timestamp", wire.timestamp),
        wire.user_id,
        wire.anonymous_id,
        wire.item_id,
        wire.items or (),
        wire.event_id,
        wire.value,
        wire.session_id,
        wire.request_id,
        wire.list,
        wire.position,
        wire.text,
        wire.context or {},
    )


def _item(wire: _ItemOrEvent) -> Item:
    check_id("item_id", wire.item_id)
    if wire.event_type is not None and (wire.user_id is not None or wire.anonymous_id is not None):
        raise Undecodable("event_type: this is an event and would blank the item; events have a topic of their own")
    if wire.attributes:
        check_scalars("attributes", wire.attributes)
    if wire.vector is not None:
        check_vector("vector", wire.vector)
    return Item(
        wire.item_id,
        wire.title,
        wire.description,
        wire.categories or (),
        wire.tags or (),
        None if wire.timestamp is None else epoch_ms("timestamp", wire.timestamp),
        wire.attributes or {},
        wire.available is not False,
        None if wire.expires_at is None else epoch_ms("expires_at", wire.expires_at),
        wire.vector,
    )


def _user(wire: UserWire) -> User:
    check_id("user_id", wire.user_id)
    if wire.attributes:
        check_scalars("attributes", wire.attributes)
    return User(wire.user_id, wire.attributes or {})


def _vector(vector: Vector) -> Vector:
    check_id("item_id", vector.item_id)
    _check_float32("vector", vector.vector)
    return vector


def _event_vector(vector: EventVector) -> EventVector:
    for field in ("user_id", "event_id", "event_type"):
        check_id(field, getattr(vector, field))
    epoch_ms("timestamp", vector.timestamp)
    _check_float32("vector", vector.vector)
    return vector


def _check_float32(field: str, packed: bytes) -> None:
    if not packed or len(packed) % 4:
        raise Undecodable(f"{field}: must be little-endian float32 in base64, found {len(packed)} bytes")
    if not np.isfinite(np.frombuffer(packed, "<f4")).all():
        raise Undecodable(f"{field}: numbers must be finite")
