"""The JSON Schemas shipped: those of the message types, and of one mind with the decoder."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from config.generate import ASYNCAPI, SCHEMAS, asyncapi, schemas
from consumers.decoding import JsonDecoder
from pipeline.messages import (
    Counts,
    EventVector,
    Manifest,
    Range,
    Reason,
    Recommendations,
    Recommended,
    Record,
    Similar,
    SimilarItem,
    Source,
    Undecodable,
    Vector,
    encode,
)
from pipeline.settings import Settings

NAMES = ["event", "item", "user", "vector", "event-vector", "recommendations", "similar", "manifest"]
DECODE = JsonDecoder({"event": "events", "item": "items", "user": "users"})
ROW = Recommended("i", 0.5, (Reason("interest", 1.0, 0.5),))
PRODUCED = {
    "vector": Vector("i", b"\0" * 8, "e", "t", Source(0, 1)),
    "event-vector": EventVector("u", "e", "search", 1, b"\0" * 8, "e", "t", Source(0, 1)),
    "recommendations": Recommendations("home", "u", "r", 1, 2, "m", "v", 3, None, (ROW,)),
    "similar": Similar("i", 1, "m", 3, (SimilarItem("j", 0.25),)),
    "manifest": Manifest(3, "0", "epoch", (Range("t", 0, 1, 5, 2, 7),), 1, Counts(1, 1), -1, 9, "c", "f", "i", "s"),
}
ADDED_LATER = {"manifest": {"effort", "begins", "poisoned", "missed", "rewind"}}
"""Logs hold messages from before; they mean the default."""
EVENT = {"event_type": "view", "user_id": "u", "item_id": "i", "timestamp": 1}


def fits(name: str, message: Any) -> bool:
    return jsonschema.Draft202012Validator(json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))).is_valid(message)


def decodes(name: str, message: Any) -> bool:
    try:
        DECODE(Record(name, 0, 0, 0, None, json.dumps(message).encode()))
    except Undecodable:
        return False
    return True


def test_the_files_are_those_of_the_message_types() -> None:
    assert sorted(path.stem for path in SCHEMAS.iterdir()) == sorted(NAMES)
    made = schemas()
    for name in NAMES:
        held = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
        assert held == json.loads(json.dumps(made[name])), f"{name}: run python -m config.generate"
        jsonschema.Draft202012Validator.check_schema(held)


@pytest.mark.parametrize("name", sorted(PRODUCED))
def test_what_is_produced_fits_and_without_any_field_does_not(name: str) -> None:
    message = json.loads(encode(PRODUCED[name]))
    assert fits(name, message)
    for field in message:
        without = {key: value for key, value in message.items() if key != field}
        assert fits(name, without) == (field in ADDED_LATER.get(name, ())), field


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("event", EVENT),
        ("event", {**EVENT, "timestamp": "2026-01-31T12:00:00+01:00", "unknown": [1], "value": 4}),
        ("event", {**EVENT, "item_id": None, "items": ["a", "b"], "event_id": None, "context": {"a": 1, "b": None}}),
        ("event", {"event_type": "search", "anonymous_id": "n", "timestamp": 1}),
        ("event", {"event_type": "review", "user_id": "u", "timestamp": 1, "text": "good"}),
        ("event", {"event_type": "identify", "user_id": "u", "anonymous_id": "n", "timestamp": 1}),
        ("item", {"item_id": "i"}),
        ("item", {"item_id": "i", "title": "t", "tags": None, "available": False, "expires_at": 5, "vector": [1, 0.5]}),
        ("item", {"item_id": "i", "attributes": {"price": 3.5, "brand": "acme", "new": True}}),
        ("user", {"user_id": "u"}),
        ("user", {"user_id": "u", "attributes": {"country": "FI"}}),
    ],
)
def test_what_decodes_fits(name: str, message: dict[str, Any]) -> None:
    assert decodes(name, message)
    assert fits(name, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("event", []),
        ("event", {**EVENT, "timestamp": None}),
        ("event", {**EVENT, "timestamp": 1.5}),
        ("event", {**EVENT, "timestamp": 10**18}),
        ("event", {**EVENT, "user_id": None}),
        ("event", {**EVENT, "user_id": ""}),
        ("event", {**EVENT, "user_id": 7}),
        ("event", {**EVENT, "item_id": "x" * 257}),
        ("event", {**EVENT, "item_id": None, "items": []}),
        ("event", {**EVENT, "items": ["a", ""]}),
        ("event", {**EVENT, "item_id": None, "text": ""}),
        ("event", {**EVENT, "value": "4"}),
        ("event", {**EVENT, "position": 1.5}),
        ("event", {**EVENT, "context": {"a": {}}}),
        ("event", {**EVENT, "context": {str(n): n for n in range(65)}}),
        ("event", {**EVENT, "event_type": "identify"}),
        ("event", {"user_id": "u", "item_id": "i", "timestamp": 1}),
        ("item", {"item_id": None}),
        ("item", {"title": "t"}),
        ("item", {"item_id": "i", "tags": "a"}),
        ("item", {"item_id": "i", "vector": []}),
        ("item", {"item_id": "i", "vector": [1.0] * 8193}),
        ("item", {"item_id": "i", "expires_at": True}),
        ("user", {"user_id": ""}),
        ("user", {"user_id": "u", "attributes": []}),
    ],
)
def test_what_does_not_decode_does_not_fit(name: str, message: Any) -> None:
    assert not decodes(name, message)
    assert not fits(name, message)


@pytest.mark.parametrize("name", ["event", "item"])
def test_the_demos_data_fits(name: str) -> None:
    with gzip.open(Path(SCHEMAS).parent / "demo" / f"{name}s.jsonl.gz") as lines:
        for line, _ in zip(lines, range(200), strict=False):
            assert fits(name, json.loads(line))


def test_the_asyncapi_document_is_that_of_the_message_types_and_of_all_topics() -> None:
    held = json.loads(ASYNCAPI.read_text("utf-8"))
    assert held == json.loads(json.dumps(asyncapi())), "run python -m config.generate"
    topics = yaml.safe_load((Path(SCHEMAS).parent / "topics.yaml").read_text("utf-8"))
    assert held["channels"].keys() == topics.keys() - {"dead-letters"}
    for kind, channel in held["channels"].items():
        assert channel["address"].format(namespace="headrace") == Settings().topic(kind)
        policy = channel["bindings"]["kafka"]["topicConfiguration"]["cleanup.policy"]
        assert policy == [topics[kind]["config"]["cleanup.policy"]]


def test_every_reference_of_the_asyncapi_document_leads_somewhere() -> None:
    held = json.loads(ASYNCAPI.read_text("utf-8"))
    for reference in re.findall(r'"\$ref": "([^"]+)"', ASYNCAPI.read_text("utf-8")):
        if reference.startswith("./"):
            assert (ASYNCAPI.parent / reference).is_file()
            continue
        at = held
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]


def test_the_asyncapi_documents_examples_fit_and_decode() -> None:
    messages = json.loads(ASYNCAPI.read_text("utf-8"))["components"]["messages"]
    assert messages.keys() == set(NAMES)
    types = {name: type(message) for name, message in PRODUCED.items()}
    for name, message in messages.items():
        for example in message["examples"]:
            assert fits(name, example["payload"]), name
            if name in types:
                msgspec.json.decode(json.dumps(example["payload"]), type=types[name])
            else:
                assert decodes(name, example["payload"]), name
