"""Writes config/schemas/*.json from the message types: python -m config.generate. A test holds the two equal."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import msgspec

from consumers.decoding import WITHOUT_ITEM, EventWire, ItemWire, UserWire
from consumers.validation import MAX_SCALARS, MAX_VECTOR
from pipeline.messages import (
    MAX_ID_BYTES,
    Event,
    EventVector,
    Item,
    Manifest,
    Recommendations,
    Similar,
    User,
    Vector,
)

SCHEMAS = Path(__file__).parent / "schemas"
Schema = dict[str, Any]

_ID = {"type": "string", "minLength": 1, "maxLength": MAX_ID_BYTES}
_TIME = [
    {"type": "integer", "minimum": -62167219200000, "maximum": 253402300799999},
    {"type": "string", "format": "date-time"},
]
_TYPES: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct]]] = {
    # What is told of it, and the fields as they are on the wire.
    "event": (Event, EventWire),
    "item": (Item, ItemWire),
    "user": (User, UserWire),
    "vector": (Vector, Vector),
    "event-vector": (EventVector, EventVector),
    "recommendations": (Recommendations, Recommendations),
    "similar": (Similar, Similar),
    "manifest": (Manifest, Manifest),
}
_DESCRIPTIONS = {
    "event": {
        "event_type": "What happened: view, purchase, rating, search; the settings' event_types say what it means.",
        "timestamp": "When it happened: RFC 3339 with an offset, or integer milliseconds since 1970.",
        "user_id": "Who did it. This or anonymous_id must be there; the record's key should be the same.",
        "anonymous_id": "Who did it, where the user is not known yet. An identify event carries both ids.",
        "item_id": "What it was done to. An event without text that is no search needs this or items.",
        "items": "What was shown: the item ids of an impression.",
        "event_id": "Makes a repeated event count once; by default topic-partition-offset.",
        "value": "A rating, a quantity, seconds: whatever the type's rule looks at.",
        "request_id": "The request_id of the list that led to it.",
        "list": "The name of that list.",
        "position": "Where in that list the item stood.",
        "text": "What the user wrote, to be embedded: a search, a review, a chat line.",
        "context": "Circumstances, flat: device, country, timezone and the like.",
    },
    "item": {
        "item_id": "The record's key should be the same; a null value withdraws the item.",
        "timestamp": "When it came to be: RFC 3339 with an offset, or integer milliseconds since 1970.",
        "attributes": "Flat: numbers and strings that become features.",
        "available": "Whether it may be recommended now.",
        "expires_at": "From when on it may no longer be recommended; as timestamp.",
        "vector": "An embedding of your own, instead of one of its text; all items' are of one width.",
    },
    "user": {
        "user_id": "The record's key should be the same; a null value erases the user.",
        "attributes": "Flat: what is known beside the events, such as a country.",
    },
    "recommendations": {
        "user_id": "Whose list it is; * is everybody unknown.",
        "generated_at": "The event time that the list takes into account, in ms.",
        "trigger_event_id": "The event that brought the list about, if one did.",
    },
}  # fmt: skip
_IDS = ("user_id", "anonymous_id", "item_id", "event_id", "event_type", "session_id", "request_id", "list")
_HAS = {name: {"required": [name], "properties": {name: {"type": "string"}}} for name in ("user_id", "anonymous_id")}
_EVENT_RULES = [
    {
        "if": {"properties": {"event_type": {"const": "identify"}}},
        "then": {"allOf": list(_HAS.values())},
        "else": {"anyOf": list(_HAS.values())},
    },
    {
        "anyOf": [
            {"properties": {"event_type": {"enum": sorted(WITHOUT_ITEM)}}},
            {"required": ["item_id"], "properties": {"item_id": {"type": "string"}}},
            {"required": ["items"], "properties": {"items": {"type": "array", "minItems": 1}}},
            {"required": ["text"], "properties": {"text": {"type": "string", "minLength": 1}}},
        ]
    },
]


def schemas() -> dict[str, Schema]:
    """JSON Schema (draft 2020-12) of each message, by its name."""
    return {name: _schema(name) for name in _TYPES}


def _schema(name: str) -> Schema:
    told, wire = _TYPES[name]
    _, definitions = msgspec.json.schema_components([wire], ref_template="#/$defs/{name}")
    own: Schema = definitions.pop(wire.__name__)
    text = inspect.getdoc(told) or ""
    own |= {"title": told.__name__, "description": text if wire is told else text.partition("\n")[0]}
    for field, description in _DESCRIPTIONS.get(name, {}).items():
        own["properties"][field]["description"] = description
    if wire is not told:
        for field, schema in own["properties"].items():
            _as_received(field, schema)
    if name == "event":
        own["allOf"] = _EVENT_RULES
    head: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return head | own | ({"$defs": definitions} if definitions else {})


def _as_received(field: str, schema: Schema) -> None:
    """What the decoder checks beyond types. Unknown fields are ignored; null is as good as absent."""
    optional = [{"type": "null"}] if "default" in schema else []
    if field in _IDS:
        schema |= {"anyOf": [_ID, *optional]} if optional else _ID
    elif field in ("timestamp", "expires_at"):
        schema["anyOf"] = [*_TIME, *optional]
    for option in schema.get("anyOf", ()):
        if option.get("type") == "object":
            option["maxProperties"] = MAX_SCALARS
        elif field == "vector" and option.get("type") == "array":
            option |= {"minItems": 1, "maxItems": MAX_VECTOR}
        elif field == "items" and option.get("type") == "array":
            option["items"] = _ID


def main() -> None:
    """Write all of them."""
    for name, schema in schemas().items():
        (SCHEMAS / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
