"""A dead letter keeps the original and says why, and always fits the broker."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from pipeline.messages import MAX_MESSAGE_BYTES, DeadLetter, Record
from producers.dead_letters import RECORD_LIMIT, dead_letter_output


def letter(**changes: Any) -> DeadLetter:
    fields: dict[str, Any] = {"key": b"k", "value": b"v", "headers": (("h", b"1"),)} | changes
    record = Record("shop.events.v1", 3, 17, 99, fields["key"], fields["value"], fields["headers"])
    return DeadLetter(record, "Undecodable", fields.get("reason", "user_id: missing é"), "learner")


def test_the_original_and_why() -> None:
    output = dead_letter_output(letter())
    assert (output.topic, output.key, output.value) == ("shop.events.v1.dlq", b"k", b"v")
    assert output.headers == (
        ("h", b"1"),
        ("__connect.errors.topic", b"shop.events.v1"),
        ("__connect.errors.partition", b"3"),
        ("__connect.errors.offset", b"17"),
        ("__connect.errors.exception.class.name", b"Undecodable"),
        ("__connect.errors.exception.message", "user_id: missing é".encode()),
        ("__connect.errors.stage", b"learner"),
        ("headrace.value.length", b"1"),
        ("headrace.value.sha256", hashlib.sha256(b"v").hexdigest().encode()),
    )


@pytest.mark.parametrize("size", [RECORD_LIMIT, MAX_MESSAGE_BYTES, 5 << 20])
def test_a_value_is_cut_to_fit_and_its_length_kept(size: int) -> None:
    value = b"x" * size
    output = dead_letter_output(letter(value=value))
    headers = dict(output.headers)
    assert output.value is not None
    assert headers["headrace.value.length"] == str(size).encode()
    assert headers["headrace.value.sha256"] == hashlib.sha256(value).hexdigest().encode()
    written = len(output.value) + 1 + sum(len(name) + len(given) for name, given in output.headers)
    assert RECORD_LIMIT - 200 < written <= RECORD_LIMIT


def test_huge_keys_headers_and_reasons_still_fit() -> None:
    headers = tuple((f"h{n}", b"x" * 100_000) for n in range(8))
    output = dead_letter_output(letter(key=b"k" * 900_000, value=b"v" * 900_000, headers=headers, reason="r" * 90_000))
    found = dict(output.headers)
    assert found["headrace.key.length"] == b"900000"
    assert found["headrace.headers.dropped"] == b"6"
    assert found["h1"] == b"x" * 100_000
    written = len(output.value or b"") + len(output.key or b"")
    assert written + sum(len(name) + len(given) for name, given in output.headers) <= RECORD_LIMIT


def test_nulls() -> None:
    assert dead_letter_output(letter(value=None)).value is None
    output = dead_letter_output(letter(key=None, value=None))
    assert (output.key, output.value, dict(output.headers)["headrace.value.null"]) == (None, b"", b"true")


def test_a_dead_letter_that_dies_again_names_its_new_place() -> None:
    earlier = (("__connect.errors.offset", b"1"), ("mine", b"2"))
    output = dead_letter_output(letter(headers=earlier))
    assert [given for name, given in output.headers if name == "__connect.errors.offset"] == [b"17"]
    assert ("mine", b"2") in output.headers


def test_a_reason_that_is_no_unicode() -> None:
    message = dict(dead_letter_output(letter(reason="x\ud800")).headers)["__connect.errors.exception.message"]
    assert message.decode() == "x\\ud800"
