"""Publishing a data set: which lines go out, under which key, how fast, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

import msgspec

from pipeline.messages import MAX_MESSAGE_BYTES

REPORTED = 20


class Refusal(msgspec.Struct, frozen=True):
    """A line that was not published."""

    line: int
    reason: str


class PublishReport(msgspec.Struct, frozen=True):
    """What became of a data set; `refusals` are the first 20 of `refused`."""

    published: int
    refused: int
    seconds: float
    refusals: tuple[Refusal, ...] = ()


class Line(msgspec.Struct, frozen=True):
    """A line that can be published to a topic, keyed; `number` counts from 1."""

    number: int
    key: bytes | None
    value: bytes
    topic: str = ""


def keyed(lines: Iterable[bytes], key_field: str | None, topic: str = "") -> Iterator[Line | Refusal]:
    """Each line that is not blank, under the value of its `key_field` (a string); or why it cannot be.

    Without a `key_field` lines have no key. An event's user_id falls back on anonymous_id.
    """
    return routed((topic, key_field, line) for line in lines)


def routed(lines: Iterable[tuple[str, str | None, bytes]]) -> Iterator[Line | Refusal]:
    """The same of lines that each come with their topic and `key_field`."""
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    for number, (topic, key_field, line) in enumerate(lines, 1):
        value = line.strip()
        if not value:
            continue
        if len(value) > MAX_MESSAGE_BYTES:
            yield Refusal(number, f"must be at most {MAX_MESSAGE_BYTES} bytes, found {len(value)}")
            continue
        try:
            fields = decode(value)
        except (ValueError, RecursionError):
            yield Refusal(number, "is not a JSON object")
            continue
        if key_field is None:
            yield Line(number, None, value, topic)
            continue
        key = _key(fields, key_field)
        if key is None:
            yield Refusal(number, f"{key_field}: must be a string, and not empty, to be the record's key")
        else:
            yield Line(number, key, value, topic)


def _key(fields: dict[str, msgspec.Raw], key_field: str) -> bytes | None:
    names = (key_field, "anonymous_id") if key_field == "user_id" else (key_field,)
    for name in names:
        try:
            found = msgspec.json.decode(fields.get(name, b"null"), type=str)
        except ValueError:
            continue
        if found:
            return found.encode()
    return None


def paced(
    items: Iterable[Line | Refusal],
    rate: float | None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Line | Refusal]:
    """The same, at most `rate` lines a second, evenly; None is as fast as it goes."""
    if rate is None:
        yield from items
        return
    if rate <= 0:
        raise ValueError(f"rate must be above 0, found {rate}")
    began, sent = now(), 0
    for item in items:
        if isinstance(item, Line):
            ahead = began + sent / rate - now()
            if ahead > 0:
                sleep(ahead)
            sent += 1
        yield item
