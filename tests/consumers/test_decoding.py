"""Every input of the contract becomes its message or a reason that names the field."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.decoding import JsonDecoder
from pipeline.messages import (
    Event,
    EventVector,
    Headers,
    Item,
    Record,
    Source,
    Tombstone,
    Undecodable,
    User,
    Vector,
    encode,
)

DECODE = JsonDecoder({kind: kind for kind in ("events", "items", "users", "vectors", "event-vectors")})
EVENT: dict[str, Any] = {"event_type": "view", "user_id": "u", "timestamp": 1_700_000_000_000, "item_id": "i"}


def record(kind: str, value: bytes | None, key: bytes | None = b"k", headers: Headers = ()) -> Record:
    return Record(kind, 0, 7, 1, key, value, headers)


def decode(kind: str, value: Any) -> Any:
    return DECODE(record(kind, value if isinstance(value, bytes) else json.dumps(value).encode()))


def reason(kind: str, value: Any, key: bytes | None = b"k") -> str:
    raw = value if isinstance(value, bytes | None) else json.dumps(value).encode()
    with pytest.raises(Undecodable) as caught:
        DECODE(record(kind, raw, key))
    return str(caught.value)


def event(**changes: Any) -> dict[str, Any]:
    return {name: given for name, given in (EVENT | changes).items() if given is not ...}


def test_a_full_event() -> None:
    full = event(
        anonymous_id="a", items=["i", "j"], event_id="e", value=4, session_id="s", request_id="r",
        list="home", position=2, text="blue shoes", context={"timezone": "Asia/Tokyo", "n": 1, "b": None},
        unknown={"deep": [1, {"er": 2}]},
    )  # fmt: skip
    assert decode("events", full) == Event(
        "view", 1_700_000_000_000, "u", "a", "i", ("i", "j"), "e", 4.0, "s", "r", "home", 2, "blue shoes",
        {"timezone": "Asia/Tokyo", "n": 1, "b": None},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("timestamp", "expected"),
    [
        (0, 0),
        (-1, -1),
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.123Z", 123),
        ("1970-01-01T00:00:00.123456Z", 123),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1969-12-31T23:59:59.999-00:00", -1),
        ("1970-01-01t00:00:00z", 0),
        ("0000-01-01T00:00:00Z", -62_167_219_200_000),
        ("0000-03-01T00:00:00Z", -62_162_035_200_000),
        ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
    ],
)
def test_timestamps(timestamp: int | str, expected: int) -> None:
    assert decode("events", event(timestamp=timestamp)).timestamp == expected


@pytest.mark.parametrize(
    "timestamp",
    ["2024-01-31T12:00:00", "2024-01-31", "2024-W05-3T00:00:00Z", "1700000000", "", "2024-02-30T00:00:00Z",
     "\uff12024-01-31T12:00:00Z", "2024-01-31T12:00:00,123Z", 1700000000000.5, True, 253_402_300_800_000,
     10**30, -62_167_219_200_001, "9999-12-31T23:59:59-01:00"],
)  # fmt: skip
def test_timestamps_that_are_refused(timestamp: Any) -> None:
    assert reason("events", event(timestamp=timestamp)).startswith("timestamp: must ")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"event_type": ...}, "event_type: missing"),
        ({"timestamp": ...}, "timestamp: missing"),
        ({"user_id": ...}, "user_id: missing; an event needs user_id or anonymous_id"),
        ({"item_id": ...}, "item_id: missing"),
        ({"item_id": ..., "items": []}, "item_id: missing"),
        ({"event_type": "identify"}, "identify: needs both"),
        ({"user_id": 7}, "user_id: must be a string, found an integer (ids are strings"),
        ({"item_id": 7.5}, "item_id: must be a string, found a number (ids are strings"),
        ({"items": ["i", 7]}, "items[1]: must be a string, found an integer"),
        ({"items": "i"}, "items: must be an array, found a string"),
        ({"user_id": ""}, "user_id: must not be empty"),
        ({"user_id": "é" * 129}, "user_id: must be at most 256 bytes of UTF-8, found 258"),
        ({"user_id": "a\nb"}, "user_id: must not hold control characters, found U+000A"),
        ({"item_id": "a\x85"}, "item_id: must not hold control characters, found U+0085"),
        ({"value": "4"}, "value: must be a number, found a string"),
        ({"value": True}, "value: must be a number, found true or false"),
        ({"position": 1.5}, "position: must be an integer, found a number"),
        ({"position": 1 << 63}, "position: must fit 64 bits"),
        ({"context": []}, "context: must be an object, found an array"),
        ({"context": {"ok": 1, "geo": {"lat": 1}}}, "context.geo: must be"),
        ({"context": {"tags": ["a"]}}, "context.tags: must be"),
        ({"context": {"n": 1 << 64}}, "context.n: must fit 64 bits"),
        ({"context": {str(n): n for n in range(65)}}, "context: must have at most 64 keys, found 65"),
        ({"text": 5}, "text: must be a string, found an integer"),
    ],
)
def test_events_that_are_refused(changes: dict[str, Any], expected: str) -> None:
    assert expected in reason("events", event(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"item_id": ..., "event_type": "search", "text": "shoes"},
        {"item_id": ..., "event_type": "search"},
        {"item_id": ..., "event_type": "chat", "text": "hello"},
        {"item_id": ..., "items": ["a", "b"], "event_type": "impression"},
        {"item_id": ..., "event_type": "identify", "anonymous_id": "a"},
        {"user_id": ..., "anonymous_id": "a"},
        {"user_id": "日本" * 42},
        {"user_id": "x" * 256},
        {"context": None, "items": None, "value": None},
        {"value": -0.0, "position": -(1 << 63), "context": {}},
    ],
)
def test_events_that_are_accepted(changes: dict[str, Any]) -> None:
    assert isinstance(decode("events", event(**changes)), Event)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", "value is empty"),
        (b"\x00\x00\x00\x00\x07{}", "schema-registry framing"),
        (gzip.compress(b"{}", mtime=0), "is gzip"),
        (b"\x28\xb5\x2f\xfd\x00", "is zstd"),
        (b"\xef\xbb\xbf{}", "byte-order mark"),
        ('{"a":1}'.encode("utf-16"), "UTF-16"),
        (b'{"event_type":"caf\xe9"}', "not UTF-8: byte 0xe9 at 18"),
        (json.dumps(EVENT)[:-1].encode() + b',"skipped":"\xff"}', "not UTF-8"),
        (b"[]", "must be an object, found an array"),
        (b"null", "must be an object, found null"),
        (b'"x"', "must be an object, found a string"),
        (json.dumps(EVENT).encode() + b" {}", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"event_type":', "not JSON"),
        (b'{"event_type":"a","timestamp":1,"value":NaN}', "holds NaN; numbers must be finite"),
        (b'{"event_type":"a","timestamp":1,"value":-Infinity}', "holds Infinity; numbers must be finite"),
        (b'{"event_type":"a","timestamp":1,"value":1e999}', "value: number out of range; must be finite"),
        (b'{"event_type":"a","timestamp":1,"value":1' + b"0" * 400 + b"}", "value: number out of range"),
        (b'{"event_type":"a","timestamp":1,"context":{"a":2,"n":1e999}}', "context.n: number out of range"),
        (b'{"event_type":"a","timestamp":1,"user_id":"\\ud800"}', "unpaired UTF-16 surrogate"),
        (b'{"event_type":"a","timestamp":1,"user_id":"x\\udc00y"}', "unpaired UTF-16 surrogate"),
        (b'{"event_type":"a","timestamp":1,"x":' + b"[" * 32 + b"]" * 32 + b"}", "nested at most 32"),
        (b'{"event_type":"a","timestamp":1,"x":' + b"[" * 100_000, "nested at most 32"),
        (b'{"x":"' + b"x" * (1 << 20) + b'"}', "at most 1048576 bytes"),
    ],
)
def test_values_that_are_refused(value: bytes, expected: str) -> None:
    assert expected in reason("events", value)


def test_nesting_of_32_is_accepted_and_brackets_in_strings_do_not_count() -> None:
    deep: Any = 1
    for _ in range(31):
        deep = [deep]
    assert decode("events", event(x=deep, y=[[] for _ in range(100)], text='"[[[[{{' * 40)).item_id == "i"


def test_the_last_of_duplicate_keys_counts() -> None:
    assert decode("events", json.dumps(EVENT)[:-1].encode() + b',"item_id":"j"}').item_id == "j"


@given(st.recursive(st.none() | st.booleans(), lambda each: st.lists(each, max_size=3), max_leaves=40))
def test_nesting_is_counted_exactly(tree: Any) -> None:
    def depth(node: Any) -> int:
        return 1 + max(map(depth, node), default=0) if isinstance(node, list) else 0

    for extra in (31 - depth(tree), 32 - depth(tree)):
        value: Any = tree
        for _ in range(max(0, extra)):
            value = [value]
        raw = json.dumps(event(x=[value, "[" * 40])).encode()
        if depth(value) + 2 <= 32:
            assert DECODE(record("events", raw))
        else:
            assert "nested at most 32" in reason("events", raw)


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_decode_or_give_a_reason(value: bytes) -> None:
    for kind in ("events", "items", "users", "vectors", "event-vectors"):
        with pytest.raises(Undecodable):
            DECODE(record(kind, value))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each, max_size=3),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.fixed_dictionaries({}, optional={name: _JSON for name in Event.__struct_fields__}))
def test_any_json_in_any_field_decodes_or_gives_a_reason(changes: dict[str, Any]) -> None:
    raw = json.dumps(EVENT | changes).encode()
    try:
        decoded = DECODE(record("events", raw))
    except Undecodable as error:
        str(error).encode()
    else:
        assert isinstance(decoded, Event)
        assert DECODE(record("events", encode(decoded))) == decoded


def test_a_full_item() -> None:
    full = {
        "item_id": "i", "title": "Blue shoe", "description": "d", "categories": ["a"], "tags": ["b", "c"],
        "timestamp": "1970-01-01T00:00:01Z", "attributes": {"price": 9.5, "brand": "x", "stock": 3},
        "available": False, "expires_at": 5, "vector": [3, 4.0],
    }  # fmt: skip
    assert decode("items", full) == Item(
        "i", "Blue shoe", "d", ("a",), ("b", "c"), 1000, {"price": 9.5, "brand": "x", "stock": 3}, False, 5,
        (3.0, 4.0),
    )  # fmt: skip
    assert decode("items", {"item_id": "i", "available": None, "tags": None}) == Item("i")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"item_id": None}, "item_id: must be a string, found null"),
        ({"categories": "shoes"}, "categories: must be an array, found a string"),
        ({"tags": [1]}, "tags[0]: must be a string, found an integer"),
        ({"attributes": {"size": [41, 42]}}, "attributes.size: must be"),
        ({"available": "yes"}, "available: must be true or false, found a string"),
        ({"expires_at": "soon"}, "expires_at: must be an RFC 3339 time"),
        ({"vector": []}, "vector: must have 1 to 8192 numbers, found 0"),
        ({"vector": [0.0] * 8193}, "vector: must have 1 to 8192 numbers, found 8193"),
        ({"vector": [0, 0.0]}, "vector: must have a length that float32 can hold and that is not zero"),
        ({"vector": [1e300, 1e300]}, "vector: must have a length that float32 can hold"),
        ({"vector": ["1"]}, "vector[0]: must be a number, found a string"),
    ],
)
def test_items_that_are_refused(changes: dict[str, Any], expected: str) -> None:
    assert expected in reason("items", {"item_id": "i"} | changes)


def test_the_id_in_the_value_counts_and_a_key_is_not_needed() -> None:
    value = b'{"item_id":"i"}'
    assert DECODE(record("items", value, b"other")) == DECODE(record("items", value, None)) == Item("i")


def test_users() -> None:
    assert decode("users", {"user_id": "u", "attributes": {"age": 4}}) == User("u", {"age": 4})
    assert "user_id: must be a string" in reason("users", {"user_id": 1})


@pytest.mark.parametrize("kind", ["items", "users", "vectors"])
def test_null_withdraws_on_compacted_topics(kind: str) -> None:
    assert DECODE(record(kind, None, "é".encode())) == Tombstone("é")
    assert "key are null" in reason(kind, None, None)
    assert "key: must be UTF-8" in reason(kind, None, b"\xff")
    assert "key: must not be empty" in reason(kind, None, b"")


@pytest.mark.parametrize("kind", ["events", "event-vectors"])
def test_null_means_nothing_elsewhere(kind: str) -> None:
    assert f"a tombstone in {kind}" in reason(kind, None)


def test_vectors_come_back_as_they_were_written() -> None:
    packed = struct.pack("<2f", 0.6, 0.8)
    vector = Vector("i", packed, "enc", "hash", Source(0, 5))
    of_event = EventVector("u", "e", "search", 9, packed, "enc", "hash", Source(1, 6))
    assert DECODE(record("vectors", encode(vector))) == vector
    assert DECODE(record("event-vectors", encode(of_event))) == of_event


@pytest.mark.parametrize(
    ("packed", "expected"),
    [
        (b"", "little-endian float32"),
        (b"abc", "little-endian float32"),
        (struct.pack("<2f", 1, float("nan")), "finite"),
    ],
)
def test_vectors_that_are_refused(packed: bytes, expected: str) -> None:
    value = {"item_id": "i", "vector": base64.b64encode(packed).decode(), "encoder": "e", "text_hash": "h"}
    value["source"] = {"partition": 0, "offset": 1}  # type: ignore[assignment]
    assert expected in reason("vectors", value)
    assert "vector: must be base64" in reason("vectors", value | {"vector": "%%%"})


def test_a_topic_that_is_not_read_here() -> None:
    assert "other" in reason("other", b"{}")
    with pytest.raises(ValueError, match="unknown kinds"):
        JsonDecoder({"t": "evnets"})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"item_id":"i","attributes":{"a":{}},,}', "attributes: must be"),
        (b'{"item_id":"i","attributes":{"a":' + b"[" * 40 + b"1" * 5000, "must be nested at most 32 deep"),
        (b"1e999", "value: number out of range"),
        (b"[1e999]", "value must be an object"),
    ],
)
def test_a_message_with_two_faults_is_told_of_one(raw: bytes, said: str) -> None:
    assert said in reason("items", raw)
