"""What becomes of every malformed shape, through the whole learner: docs/BAD_INPUT.md is made of this table.

python tests/consumers/test_bad_input.py --write makes it anew.
"""

from __future__ import annotations

import gzip
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "epochs"), str(ROOT / "tests" / "kafka")]

from shard import START_MS, Shard  # noqa: E402

from pipeline.messages import Output  # noqa: E402

PAGE = ROOT / "docs" / "BAD_INPUT.md"
EVENT = {"event_type": "like", "user_id": "u", "item_id": "i", "timestamp": START_MS}
DAY = 86_400_000
NUL, DEL, ESC = "\x00", "\x7f", "\x1b"


@dataclass(frozen=True)
class Row:
    """`value` as sent to `topic`; `becomes` is an outcome, `reason` what the dead letter says, or why it is fine."""

    what: str
    value: bytes | None
    becomes: str
    reason: str
    topic: str = "events"
    key: bytes | None = b"u"
    headers: tuple[tuple[str, bytes], ...] = ()


def event(**changed: Any) -> bytes:
    """An event in which some fields are others; None leaves one out."""
    return json.dumps({k: v for k, v in (EVENT | changed).items() if v is not None}).encode()


def raw(field: str, text: str) -> bytes:
    """An event whose field holds this text of JSON."""
    fields = {name: json.dumps(value) for name, value in EVENT.items()} | {field: text}
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def cloud(**changed: str | None) -> tuple[tuple[str, bytes], ...]:
    """Headers of a binary CloudEvent."""
    headers: dict[str, str | None] = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "like"}
    return tuple((f"ce_{name}", value.encode()) for name, value in (headers | changed).items() if value is not None)


DEAD, TRAINED = "dead letter", "trained"
MATRIX = [
    Row("not JSON", b"like u i", DEAD, "not JSON: Expecting value"),
    Row("cut off", event()[:-9], DEAD, "not JSON: Expecting ',' delimiter"),
    Row("nothing", b"", DEAD, "value is empty"),
    Row("two documents", event() + event(), DEAD, "Extra data"),
    Row("not UTF-8", b"\xff\xfe\x00", DEAD, "UTF-8"),
    Row("gzipped", gzip.compress(event(), mtime=0), DEAD, "producer's compression.type"),
    Row("a byte-order mark first", b"\xef\xbb\xbf" + event(), DEAD, "byte-order mark"),
    Row("a schema registry's magic byte", b"\x00\x00\x00\x00\x07\x02u", DEAD, "schema-registry framing"),
    Row("a list in place of an object", b"[]", DEAD, "must be an object, found an array"),
    Row("a bare number", b"1e999", DEAD, ""),
    Row("nested 40 deep", raw("context", "[" * 40 + "]" * 40), DEAD, "nested at most 32 deep"),
    Row("nested 100,000 deep", b"[" * 100_000, DEAD, "nested at most 32 deep"),
    Row("1 MiB and more", event(text="x" * (1 << 20)), DEAD, "at most 1048576 bytes"),
    Row("null", None, DEAD, "a tombstone in events means nothing"),
    Row("unknown fields", event(colour="red", nested={"a": [1]}), TRAINED, "they are ignored"),
    Row("a field twice", raw("value", '1,"value":5'), TRAINED, "the last one counts"),
    Row("no user", event(user_id=None), DEAD, "needs user_id or anonymous_id"),
    Row("no item, and no search", event(item_id=None), DEAD, "needs item_id or items, unless a search or with text"),
    Row("a search without text or item", event(event_type="search", item_id=None), "skipped", "says nothing to learn"),
    Row("identify with one id", event(event_type="identify", item_id=None), DEAD, "needs both user_id and"),
    Row("no type", event(event_type=None), DEAD, "event_type"),
    Row("a type that the settings do not know", event(event_type="teleport"), TRAINED, "a weak positive"),
    Row("a number as user", event(user_id=7), DEAD, "user_id: must be a string, found an integer"),
    Row("an object as item", event(item_id={"id": "i"}), DEAD, "item_id: must be a string, found an object"),
    Row("text as value", event(value="five"), DEAD, "value: must be a number, found a string"),
    Row("an empty id", event(user_id=""), DEAD, "user_id: must not be empty"),
    Row("an id of 257 bytes", event(item_id="é" * 128 + "x"), DEAD, "item_id: must be at most 256 bytes"),
    Row("a control character in an id", event(item_id=f"a{NUL}b"), DEAD, "control characters, found U+0000"),
    Row("a terminal's escape in an id", event(user_id=f"{ESC}[31m"), DEAD, "control characters, found U+001B"),
    Row("a lone surrogate", raw("item_id", '"\\ud800"'), DEAD, "surrogate"),
    Row("NaN", raw("value", "NaN"), DEAD, "numbers must be finite"),
    Row("Infinity", raw("value", "-Infinity"), DEAD, ""),
    Row("1e999", raw("value", "1e999"), DEAD, "out of range"),
    Row("an integer of 400 digits", raw("position", "9" * 400), DEAD, ""),
    Row("an integer past 64 bits", raw("position", str(1 << 63)), DEAD, ""),
    Row("time: none", event(timestamp=None), DEAD, "timestamp"),
    Row("time: without an offset", event(timestamp="2023-11-14T22:13:20"), DEAD, "RFC 3339 time with an offset"),
    Row("time: 30 February", event(timestamp="2023-02-30T00:00:00Z"), DEAD, "RFC 3339 time with an offset"),
    Row("time: a fraction of a millisecond", raw("timestamp", "1.5"), DEAD, "must be an integer or a string"),
    Row("time: year 0", event(timestamp="0000-01-01T00:00:00Z"), TRAINED, "the first of its partition is not late"),
    Row("time: before year 0", event(timestamp=-62_167_219_200_001), DEAD, "the years 0 to 9999"),
    Row("time: year 9999", event(timestamp="9999-12-31T23:59:59Z"), TRAINED, "as if 5 minutes after its append time"),
    Row("time: microseconds", event(timestamp=1_700_000_000_000_000), DEAD, "looks like microseconds"),
    Row("time: nanoseconds", event(timestamp=1_700_000_000_000_000_000), DEAD, "looks like nanoseconds"),
    Row("time: year 10000", event(timestamp=253_402_300_800_000), DEAD, "the years 0 to 9999"),
    Row("time: tomorrow", event(timestamp=START_MS + DAY), TRAINED, "as if 5 minutes after its append time"),
    Row("65 keys of context", event(context={f"k{n}": n for n in range(65)}), DEAD, "at most 64 keys"),
    Row("a list in context", event(context={"k": [1]}), DEAD, "context"),
    Row("CloudEvent: another version", event(), DEAD, "specversion", headers=cloud(specversion="0.3")),
    Row("CloudEvent: no id", event(), DEAD, "ce_id", headers=cloud(id=None)),
    Row("CloudEvent: data is no object", b'"like"', DEAD, "", headers=cloud()),
    Row("item: an event", event(), DEAD, "this is an event and would blank the item", topic="items"),
    Row("item: no id", b'{"title":"t"}', DEAD, "item_id", topic="items"),
    Row("item: categories that are no list", b'{"item_id":"i","categories":"a"}', DEAD, "categories", topic="items"),
    Row("item: a vector of nothing", b'{"item_id":"i","vector":[]}', DEAD, "1 to 8192 numbers", topic="items"),
    Row("item: a vector of zeros", b'{"item_id":"i","vector":[0,0]}', DEAD, "not zero", topic="items"),
    Row("item: null without a key", None, DEAD, "the key of what it withdraws", topic="items", key=None),
    Row("item: null of an item unknown", None, "taken", "there is nothing to withdraw", topic="items", key=b"ghost"),
    Row("user: null of a user unknown", None, "taken", "what came before counts no more", topic="users", key=b"ghost"),
    Row("user: attributes that are a list", b'{"user_id":"u","attributes":[1]}', DEAD, "attributes", topic="users"),
]  # fmt: skip


def outcome(row: Row) -> tuple[str, str]:
    """What became of it in a shard that has learned something, and the reason of its dead letter."""
    shard = Shard()
    shard.item("i")
    shard.run()
    shard.log.append(Output(shard.settings.topic(row.topic), row.key, row.value, row.headers))
    shard.run()
    counts = shard.manifests()[-1].counts
    letters = list(shard.log.records(f"{shard.settings.topic(row.topic)}.dlq"))
    if letters:
        assert letters[0].value == row.value or row.value is None or len(row.value) > 1 << 20
        return DEAD, dict(letters[0].headers)["__connect.errors.exception.message"].decode()
    found = [name for name in ("trained", "duplicate", "late", "erased", "skipped") if getattr(counts, name)]
    return (found or ["taken"])[0], ""


@pytest.mark.parametrize("row", MATRIX, ids=[row.what for row in MATRIX])
def test_every_malformed_shape_has_its_documented_outcome(row: Row) -> None:
    became, reason = outcome(row)
    assert became == row.becomes, reason
    if became == DEAD:
        assert row.reason in reason, reason
        assert "\n" not in reason
        assert len(reason) <= 4096


def test_of_two_with_one_id_the_second_is_a_duplicate_and_late_ones_teach_nothing() -> None:
    shard = Shard()
    shard.item("i")
    shard.event("u", "i", event_id="e")
    shard.event("u", "i", event_id="e")
    shard.run()
    shard.event("u", "i", timestamp=START_MS - 2 * DAY)
    shard.run()
    counts = [manifest.counts for manifest in shard.manifests()]
    assert [sum(getattr(c, name) for c in counts) for name in ("trained", "duplicate", "late")] == [1, 1, 1]


def test_the_page_is_this_table() -> None:
    assert PAGE.read_text("utf-8") == page(), "python tests/consumers/test_bad_input.py --write"


def page() -> str:
    """docs/BAD_INPUT.md."""
    lines = [
        "# What becomes of bad input",
        "",
        "Made by `python tests/consumers/test_bad_input.py --write`; the same file runs every row through the learner.",
        "A dead letter is the record as it came on `<topic>.dlq`, with the reason in the header",
        "`__connect.errors.exception.message`; a row shows what the reason says, or why it is none.",
        "",
        "Beyond this table: a second event with an `event_id` seen within `learning.dedupe_window_s` is a `duplicate`;",
        "one further behind its partition's newest than `learning.allowed_lateness_s` is `late`; one appended before",
        "its user was erased is `erased`. A record that decodes and on which the step fails every time is a dead",
        "letter of class `Poison`.",
        "",
        "| what comes | topic | becomes | reason |",
        "|---|---|---|---|",
    ]
    for row in MATRIX:
        reason = outcome(row)[1] or row.reason
        shown = reason.replace("|", "\\|")[:140] + ("…" if len(reason) > 140 else "")
        lines.append(f"| {row.what} | {row.topic} | {row.becomes} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__" and "--write" in sys.argv:
    PAGE.write_text(page(), "utf-8")
