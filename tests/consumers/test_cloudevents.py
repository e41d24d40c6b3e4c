"""CloudEvents 1.0, made by the cloudevents package and by hand, become the plain event inside."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from consumers.decoding import JsonDecoder
from pipeline.messages import Event, Headers, Item, Record, Tombstone, Undecodable

DECODE = JsonDecoder({"events": "events", "items": "items"})
ATTRIBUTES: dict[str, Any] = {
    "specversion": "1.0",
    "id": "ce-1",
    "source": "/shop",
    "type": "purchase",
    "time": datetime(1970, 1, 1, 0, 0, 2, tzinfo=UTC),
    "subject": "not-an-item",
    "partitionkey": "u",
    "datacontenttype": "application/json",
}
DATA = {"user_id": "u", "item_id": "i", "value": 3}
EXPECTED = Event("purchase", 2000, "u", item_id="i", event_id="ce-1", value=3.0)


def decode(message: KafkaMessage, topic: str = "events") -> Any:
    return by_hand(message.value, tuple(message.headers.items()), topic)


def by_hand(value: bytes | None, headers: Headers, topic: str = "events") -> Any:
    return DECODE(Record(topic, 0, 1, 1, b"u", value, headers))


def reason(value: bytes, headers: Headers) -> str:
    with pytest.raises(Undecodable) as caught:
        by_hand(value, headers)
    return str(caught.value)


def binary(**changes: bytes | None) -> Headers:
    headers = {"ce_specversion": b"1.0", "ce_id": b"ce-1", "ce_source": b"/shop", "ce_type": b"purchase"}
    headers |= {"ce_time": b"1970-01-01T00:00:02Z", "content-type": b"application/json"}
    merged = headers | {name.replace("content_type", "content-type"): given for name, given in changes.items()}
    return tuple((name, given) for name, given in merged.items() if given is not None)


STRUCTURED: Headers = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)


def envelope(**changes: Any) -> bytes:
    plain = {"specversion": "1.0", "id": "ce-1", "source": "/shop", "type": "purchase", "data": DATA}
    plain["time"] = "1970-01-01T00:00:02Z"
    return json.dumps({name: each for name, each in (plain | changes).items() if each is not ...}).encode()


@pytest.mark.parametrize("to_kafka", [to_binary_event, to_structured_event])
def test_events_of_the_cloudevents_package(to_kafka: Any) -> None:
    assert decode(to_kafka(CloudEvent(ATTRIBUTES, DATA))) == EXPECTED


@pytest.mark.parametrize("to_kafka", [to_binary_event, to_structured_event])
def test_what_the_data_says_goes_before_the_attributes(to_kafka: Any) -> None:
    own = DATA | {"event_type": "view", "event_id": "mine", "timestamp": 7}
    assert decode(to_kafka(CloudEvent(ATTRIBUTES, own))) == Event(
        "view", 7, "u", item_id="i", event_id="mine", value=3.0
    )
    assert decode(to_kafka(CloudEvent(ATTRIBUTES, own | {"event_id": None}))).event_id == "ce-1"


@pytest.mark.parametrize("to_kafka", [to_binary_event, to_structured_event])
def test_items_and_their_withdrawal(to_kafka: Any) -> None:
    item = to_kafka(CloudEvent(ATTRIBUTES, {"item_id": "i"}))
    assert decode(item, "items") == Item("i", timestamp=2000)
    assert by_hand(None, tuple(item.headers.items()), "items") == Tombstone("u")


@pytest.mark.parametrize("content_type", [b"application/json;charset=utf-8", b"Application/Vnd.Shop+JSON", None])
def test_binary_content_types(content_type: bytes | None) -> None:
    assert by_hand(json.dumps(DATA).encode(), binary(content_type=content_type)) == EXPECTED


def test_header_names_in_capitals() -> None:
    headers = tuple((name.upper(), given) for name, given in binary())
    assert by_hand(json.dumps(DATA).encode(), headers) == EXPECTED


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ce_specversion": b"0.3"}, "ce_specversion: must be 1.0, found 0.3"),
        ({"ce_id": None}, "ce_id: missing"),
        ({"ce_source": b""}, "ce_source: missing"),
        ({"ce_type": None}, "ce_type: missing"),
        ({"ce_type": b"\xff"}, "ce_type: must be UTF-8"),
        ({"ce_time": b"yesterday"}, "timestamp: must be an RFC 3339 time"),
        ({"content_type": b"text/plain"}, "content-type: must be application/json, found text/plain"),
        ({"content_type": b"application/avro"}, "content-type: must be application/json"),
        ({"content_type": b"application/json; charset=latin-1"}, "content-type: charset must be utf-8"),
    ],
)
def test_binary_events_that_are_refused(changes: dict[str, bytes | None], expected: str) -> None:
    assert expected in reason(json.dumps(DATA).encode(), binary(**changes))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", "value is empty"),
        (b"[]", "value must be an object, found an array"),
        (b"\x00ab", "schema-registry"),
    ],
)
def test_binary_data_that_is_refused(value: bytes, expected: str) -> None:
    assert expected in reason(value, binary())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"specversion": "0.3"}, "specversion: must be 1.0, found 0.3"),
        ({"specversion": ...}, "specversion: missing"),
        ({"id": ...}, "id: missing"),
        ({"source": ...}, "source: missing"),
        ({"type": ...}, "type: missing"),
        ({"id": 7}, "id: must be a string, found an integer"),
        ({"data": ...}, "data: missing"),
        ({"data": None}, "data: missing"),
        ({"data": "{}"}, "data must be an object, found a string"),
        ({"data": ..., "data_base64": "%"}, "data_base64: must be base64"),
        ({"data": ..., "data_base64": "AAAA"}, "data_base64 starts with a zero byte"),
        ({"data_base64": "e30="}, "data: must not stand beside data_base64"),
        ({"datacontenttype": "application/xml"}, "datacontenttype: must be application/json"),
        ({"data": DATA | {"user_id": 7}}, "user_id: must be a string, found an integer"),
    ],
)
def test_structured_events_that_are_refused(changes: dict[str, Any], expected: str) -> None:
    assert expected in reason(envelope(**changes), STRUCTURED)


def test_structured_data_in_base64() -> None:
    encoded = "eyJ1c2VyX2lkIjoidSIsIml0ZW1faWQiOiJpIiwidmFsdWUiOjN9"
    assert by_hand(envelope(data=..., data_base64=encoded), STRUCTURED) == EXPECTED


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/cloudevents-batch+json", "batches are not accepted"),
        (b"application/cloudevents+avro", "must be application/cloudevents+json, found"),
        (b"application/cloudevents+json; charset=utf-16", "charset must be utf-8"),
    ],
)  # fmt: skip
def test_structured_formats_that_are_refused(content_type: bytes, expected: str) -> None:
    assert expected in reason(envelope(), (("content-type", content_type),))


def test_a_structured_event_without_its_header_is_recognised() -> None:
    assert "content-type: application/cloudevents+json" in reason(envelope(), ())


def test_nesting_counts_the_envelope() -> None:
    deep: Any = 1
    for _ in range(31):
        deep = [deep]
    assert by_hand(json.dumps(DATA | {"x": deep}).encode(), binary()) == EXPECTED
    assert "nested at most 32" in reason(envelope(data=DATA | {"x": deep}), STRUCTURED)
