"""Writes config/schemas/*.json and config/asyncapi.json from the message types: python -m config.generate.

A test holds them equal.
"""

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
ASYNCAPI = Path(__file__).parent / "asyncapi.json"
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


_REASONS = [
    {"name": "interest", "weight": 0.8, "contribution": 1.2},
    {"name": "others", "weight": 1.0, "contribution": 0.3},
    {"name": "interaction", "weight": 1.0, "contribution": -0.1},
]
_LIST = {
    "list": "home", "user_id": "u1", "request_id": "1a-00c0ffee00c0ffee", "generated_at": 1795867200000,
    "expires_at": 1795953600000, "model_version": "headrace-1-4f2a", "variant": "", "epoch": 26,
    "trigger_event_id": "e1", "items": [{"item_id": "i7", "score": 1.4, "reasons": _REASONS}],
}  # fmt: skip
_MADE = {"encoder": "hashing-1-2", "text_hash": "5d41402abc4b2a76", "source": {"partition": 0, "offset": 41}}
_VECTOR = "AAAAPwAAAD8="
_TOPICS: dict[str, Schema] = {
    "events": {
        "message": "event", "cleanup": "delete", "actions": ("receive",), "key": "user_id, else anonymous_id",
        "description": "What users do. What cannot be used goes to the topic with .dlq behind its name.",
        "receive": "Learn from it, and refresh the user's lists.",
        "examples": [
            {"event_type": "view", "user_id": "u1", "item_id": "i9", "timestamp": "2026-11-28T12:00:00Z"},
            {"event_type": "search", "anonymous_id": "visitor-4", "text": "red shoes", "timestamp": 1795867200000},
            {"event_type": "identify", "user_id": "u1", "anonymous_id": "visitor-4", "timestamp": 1795867201000},
        ],
    },
    "items": {
        "message": "item", "cleanup": "compact", "actions": ("receive",), "key": "item_id",
        "null": "withdraws the item", "description": "What can be recommended.",
        "receive": "Embed it, and recommend it from then on.",
        "examples": [{"item_id": "i9", "title": "Red shoes", "categories": ["shoes"], "attributes": {"price": 59.9}}],
    },
    "users": {
        "message": "user", "cleanup": "compact", "actions": ("receive",), "key": "user_id", "null": "erases the user",
        "description": "What is known of users beside their events.", "receive": "Know it of the user.",
        "examples": [{"user_id": "u1", "attributes": {"country": "FI"}}],
    },
    "vectors": {
        "message": "vector", "cleanup": "compact", "actions": ("send", "receive"), "key": "item_id",
        "null": "says that the item has no vector any more", "description": "Items' embeddings.",
        "send": "The embedder has embedded an item.", "receive": "The learner takes it.",
        "examples": [{"item_id": "i9", "vector": _VECTOR, **_MADE}],
    },
    "event-vectors": {
        "message": "event-vector", "cleanup": "delete", "actions": ("send", "receive"), "key": "the event's actor",
        "description": "Embeddings of what users wrote.", "send": "The embedder has embedded a text.",
        "receive": "The learner joins it to the event.",
        "examples": [{
            "user_id": "u1", "event_id": "e2", "event_type": "search", "timestamp": 1795867200000, "vector": _VECTOR,
            **_MADE,
        }],
    },
    "recommendations": {
        "message": "recommendations", "cleanup": "compact", "actions": ("send",),
        "key": "LIST:user_id; trending:* is everyone's",
        "null": "says that the user has no list any more", "description": "Refreshed lists; read_committed.",
        "send": "A user's list has changed.", "examples": [_LIST],
    },
    "similar": {
        "message": "similar", "cleanup": "compact", "actions": ("send",), "key": "item_id",
        "null": "says that the item has no list any more", "description": "What goes with an item; read_committed.",
        "send": "An item's list has changed.",
        "examples": [{
            "item_id": "i9", "generated_at": 1795867200000, "model_version": "headrace-1-4f2a", "epoch": 26,
            "items": [{"item_id": "i7", "score": 0.41}],
        }],
    },
    "epochs": {
        "message": "manifest", "cleanup": "delete", "actions": ("send", "receive"), "key": "none",
        "description": "A manifest for every epoch, kept for ever: what was read, and what came of it.",
        "send": "An epoch is committed.", "receive": "A start learns again what is in no snapshot.",
        "examples": [{
            "epoch": 26, "instance": "host-1-c0ffee00", "kind": "epoch", "seed": 1, "watermark": 1795867200000,
            "ranges": [
                {"topic": "headrace.events.v1", "partition": 0, "from": 40, "to": 42, "records": 2, "crc32c": 305419896}
            ],
            "counts": {"consumed": 2, "trained": 2, "lists": 1}, "clock": 1795867200100, "config_hash": "4f2a",
            "fingerprint": "headrace-0.1.0 torch-2", "input_digest": "ab", "state_digest": "cd", "effort": 4,
        }],
    },
}  # fmt: skip


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


def asyncapi() -> Schema:
    """The AsyncAPI 3 document of all topics: who sends what, under which key, with an example of each message."""
    channels: Schema = {}
    operations: Schema = {}
    for kind, topic in _TOPICS.items():
        channels[kind] = {
            "address": f"{{namespace}}.{kind}.v1",
            "description": topic["description"],
            "parameters": {"namespace": {"description": "The setting `namespace`.", "default": "headrace"}},
            "messages": {topic["message"]: {"$ref": f"#/components/messages/{topic['message']}"}},
            "bindings": {
                "kafka": {"topicConfiguration": {"cleanup.policy": [topic["cleanup"]]}, "bindingVersion": "0.5.0"}
            },
        }
        for action in topic["actions"]:
            operations[f"{action}-{kind}"] = {
                "action": action,
                "channel": {"$ref": f"#/channels/{kind}"},
                "summary": topic[action],
                "messages": [{"$ref": f"#/channels/{kind}/messages/{topic['message']}"}],
            }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headrace",
            "version": "1",
            "description": "Raw user events in, refreshed recommendation lists out. The application is Headrace.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": {"host": "localhost:9092", "protocol": "kafka", "description": "kafka.bootstrap"}},
        "channels": channels,
        "operations": operations,
        "components": {"messages": {topic["message"]: _message(topic) for topic in _TOPICS.values()}},
    }


def _message(topic: Schema) -> Schema:
    name = topic["message"]
    message: Schema = {
        "name": name,
        "title": _TYPES[name][0].__name__,
        "payload": {
            "schemaFormat": "application/schema+json;version=draft-2020-12",
            "schema": {"$ref": f"./schemas/{name}.json"},
        },
        "bindings": {"kafka": {"key": {"type": "string", "description": topic["key"]}, "bindingVersion": "0.5.0"}},
        "examples": [{"name": f"{name}-{n}", "payload": example} for n, example in enumerate(topic["examples"], 1)],
    }
    if topic["cleanup"] == "compact":
        message["description"] = f"A null value {topic['null']}."
    return message


def main() -> None:
    """Write all of them."""
    for name, schema in schemas().items():
        (SCHEMAS / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n", "utf-8")
    ASYNCAPI.write_text(json.dumps(asyncapi(), indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
