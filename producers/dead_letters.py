"""Dead letters as records: the original bytes, and in headers, named as in Kafka Connect, why and whence."""

from __future__ import annotations

import hashlib

from pipeline.messages import DeadLetter, Headers, Output
from pipeline.showing import shown

RECORD_LIMIT = 1_048_588 - 1024
"""Bytes of key, value and headers that fit a broker's default message.max.bytes, framing included."""
KEY_LIMIT = 64 << 10
HEADERS_LIMIT = 256 << 10
REASON_LIMIT = 4 << 10


def dead_letter_output(letter: DeadLetter, limit: int = RECORD_LIMIT) -> Output:
    """The record for `<topic>.dlq`: original key, value and headers, and the `__connect.errors.*` headers.

    The value is cut so that the whole stays within `limit` bytes; its original
    length and SHA-256 are in `headrace.value.length` and `headrace.value.sha256`.
    A key past 64 KiB is cut likewise; headers past 256 KiB are left out, and
    `headrace.headers.dropped` counts them. Kafka takes no record without key
    and value: where both are null the value is empty and `headrace.value.null` is set.
    """
    record = letter.record
    headers = [
        ("__connect.errors.topic", _text(record.topic)),
        ("__connect.errors.partition", _text(record.partition)),
        ("__connect.errors.offset", _text(record.offset)),
        ("__connect.errors.exception.class.name", _text(letter.error)),
        ("__connect.errors.exception.message", _text(shown(letter.reason))[:REASON_LIMIT]),
        ("__connect.errors.stage", _text(letter.stage)),
    ]
    key, value = record.key, record.value
    if key is not None and len(key) > KEY_LIMIT:
        headers += _measures("key", key)
        key = key[:KEY_LIMIT]
    if value is not None:
        headers += _measures("value", value)
    elif key is None:
        value = b""
        headers.append(("headrace.value.null", b"true"))
    originals = _originals(record.headers, {name for name, _ in headers})
    if dropped := len(record.headers) - len(originals):
        headers.append(("headrace.headers.dropped", _text(dropped)))
    kept = (*originals, *headers)
    if value is not None:
        value = value[: max(0, limit - len(key or b"") - _size(kept))]
    return Output(f"{record.topic}.dlq", key, value, kept)


def _originals(headers: Headers, taken: set[str]) -> Headers:
    """The original headers that fit, without those of an earlier life as a dead letter."""
    kept, room = [], HEADERS_LIMIT
    for name, given in headers:
        room -= _size(((name, given),))
        if room < 0:
            break
        if name not in taken:
            kept.append((name, given))
    return tuple(kept)


def _measures(of: str, given: bytes) -> list[tuple[str, bytes]]:
    digest = hashlib.sha256(given).hexdigest()
    return [(f"headrace.{of}.length", _text(len(given))), (f"headrace.{of}.sha256", _text(digest))]


def _size(headers: Headers) -> int:
    """Bytes on the wire, at most: name, value and two lengths of up to five bytes each."""
    return sum(len(name.encode("utf-8", "backslashreplace")) + len(given) + 10 for name, given in headers)


def _text(given: str | int) -> bytes:
    return str(given).encode("utf-8", "backslashreplace")
