"""Rubbish by the million: messages bent and broken in every way we know, through the decoder and into epochs.

fuzz.py [--messages N] [--seed N] [--learned N]

Each message has one of two ends: it is taken, or it becomes a dead letter that
says why in one line. Nothing else may be raised, every event is counted once,
and a dead letter fits into a record. `--learned` of them go through the whole
learner too, whose state must stay finite.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from consumers.decoding import JsonDecoder
from pipeline.epochs.intake import Ledger, take_in
from pipeline.epochs.processor import Processor
from pipeline.messages import MAX_MESSAGE_BYTES, Counts, Headers, Record
from pipeline.settings import Settings
from producers.dead_letters import dead_letter_output

KINDS = ("events", "items", "users", "vectors", "event-vectors")
NOW = 1_700_000_000_000
BATCH = 64
ANEW = 10
"""Batches after which a ledger that has seen the year 9999 gives way to a new one."""

VECTOR = "AACAPwAAAAAAAAAAAAAAAA=="

WHOLE: dict[str, list[dict[str, Any]]] = {
    "events": [
        {"event_type": "view", "user_id": "u1", "item_id": "i1", "timestamp": NOW, "event_id": "e1"},
        {"event_type": "rating", "user_id": "u2", "item_id": "i2", "timestamp": "2023-11-14T22:13:20Z", "value": 4.5},
        {"event_type": "search", "anonymous_id": "v1", "timestamp": NOW, "text": "shoes", "context": {"device": "tv"}},
        {"event_type": "impression", "user_id": "u1", "items": ["i1", "i2"], "timestamp": NOW, "position": 1},
        {"event_type": "identify", "user_id": "u1", "anonymous_id": "v1", "timestamp": NOW},
        {"specversion": "1.0", "id": "e9", "source": "/shop", "type": "view", "time": "2023-11-14T22:13:20Z",
         "data": {"event_type": "view", "user_id": "u1", "item_id": "i1", "timestamp": NOW}},
    ],
    "items": [
        {"item_id": "i1", "title": "A", "categories": ["c"], "attributes": {"price": 7}, "available": True},
        {"item_id": "i2", "vector": [0.5, 0.5, 0.5, 0.5], "expires_at": NOW + 1000, "timestamp": NOW},
    ],
    "users": [{"user_id": "u1", "attributes": {"segment": "a"}}],
    "vectors": [{"item_id": "i1", "vector": VECTOR, "encoder": "x", "text_hash": "y",
                 "source": {"partition": 0, "offset": 0}}],
    "event-vectors": [{"user_id": "u1", "event_id": "e1", "event_type": "search", "timestamp": NOW, "vector": VECTOR,
                       "encoder": "x", "text_hash": "y", "source": {"partition": 0, "offset": 0}}],
}  # fmt: skip

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e308, 5e-324, "", " ",
    "\0", "\x7f", "a" * 256, "a" * 257, "é" * 200, "\ud800", "\U0001f600", "9999-12-31T23:59:59Z",
    "0000-01-01T00:00:00Z", "2023-02-30T00:00:00Z", "2023-11-14T22:13:20+99:99", "NaN", "Infinity", [], {}, [[]],
    {"": ""}, ["a"] * 2000,
    {"a": {"b": {"c": 1}}}, {str(n): n for n in range(200)}, [None], [1, "a"], -62167219200001, 253402300800000,
)  # fmt: skip
TOKENS = (
    b"NaN", b"-Infinity", b"1e999", b"1e-999", b"\\ud800", b"\\u0000", b"\xff\xfe", b"\xed\xa0\x80", b"[" * 40,
    b"{" * 40, b"[" * 100_000, b"\x00", b"\x00\x00\x00\x00\x01", b"/*", b",", b'"', b":", b"}", b"0x10", b"00",
    b"-", b"\xc3", b"\xef\xbb\xbf", b"1" * 5000, b"true", b"null",
)  # fmt: skip
HEADERS: tuple[Headers, ...] = (
    (), (("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"view")),
    (("ce_specversion", b"0.3"),), (("ce_specversion", b"\xff"), ("ce_id", b"")), (("", b""),),
    (("content-type", b"application/cloudevents+json"),), (("content-type", b"application/avro"),),
    (("ce_specversion", b"1.0"), ("ce_time", b"yesterday"), ("ce_id", b"1"), ("ce_source", b"x"), ("ce_type", b"t")),
)  # fmt: skip


@dataclass
class Tally:
    """What came of the messages."""

    messages: int = 0
    taken: int = 0
    dead: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)


def bent(chance: random.Random, kind: str) -> bytes | None:
    """One message's bytes: whole, or with fields changed, or with bytes changed, or none of it a message."""
    message = dict(chance.choice(WHOLE[kind]))
    for _ in range(chance.choice((0, 0, 1, 1, 2, 4))):
        name = chance.choice((*message, "extra", "event_id", "context", "attributes", "value", "position"))
        if chance.random() < 0.2:
            message.pop(name, None)
        else:
            message[name] = chance.choice(NASTY)
    if chance.random() < (0.2 if kind == "users" else 0.02):
        return chance.choice((None, b"", b"null", b"[]", b"\x00" * 9, b"a", chance.randbytes(40)))
    raw = json.dumps(message, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 0, 0, 1, 3))):
        at = chance.randrange(len(raw) + 1)
        match chance.randrange(4):
            case 0:
                raw = raw[:at]
            case 1:
                raw = raw[:at] + chance.choice(TOKENS) + raw[at:]
            case 2:
                raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
            case _:
                raw = raw[:at] + raw[min(at + chance.randrange(9), len(raw)) :]
    if chance.random() < 0.0005:
        raw = raw[:-1] + b" " * (MAX_MESSAGE_BYTES + chance.randrange(-200, 200) - len(raw)) + raw[-1:]
    return raw


def batches(settings: Settings, messages: int, seed: int) -> Iterator[list[Record]]:
    """So many records, in epochs."""
    chance = random.Random(seed)
    offsets: Counter[str] = Counter()
    for start in range(0, messages, BATCH):
        records = []
        for _ in range(min(BATCH, messages - start)):
            kind = chance.choices(KINDS, (6, 2, 1, 1, 1))[0]
            key = chance.choice((b"u1", b"i1", b"u7", b"u8", b"", None, b"\xff", b"a" * 300))
            stamp = NOW + start if chance.random() < 0.999 else chance.choice((0, -1, NOW * 2, 2**62))
            topic = settings.topic(kind)
            headers = chance.choice(HEADERS) if chance.random() < 0.1 else ()
            records.append(Record(topic, 0, offsets[topic], stamp, key, bent(chance, kind), headers))
            offsets[topic] += 1
        yield records


def decoded(settings: Settings, messages: int, seed: int) -> Tally:
    """Through the decoder and into epochs; raises AssertionError, or whatever ought not to be raised."""
    decode = JsonDecoder({settings.topic(kind): kind for kind in KINDS})
    ledger, tally = Ledger(settings), Tally()
    for number, records in enumerate(batches(settings, messages, seed)):
        if number % ANEW == 0:
            ledger = Ledger(settings)
        intake = take_in(records, decode, ledger, settings.topic("events"))
        ledger.advance(intake.events)
        counts = Counts(**intake.counts, trained=len(intake.events))
        events = sum(record.topic == settings.topic("events") for record in records)
        assert counts.conserved, counts
        assert counts.consumed == events, counts
        others = len(intake.items) + len(intake.vectors) + len(intake.users) + len(intake.texts)
        assert len(records) == events + others + len(intake.dead) - counts.dead_lettered
        for letter in intake.dead:
            output = dead_letter_output(letter)
            assert len(output.value or b"") + sum(len(v) for _, v in output.headers) < MAX_MESSAGE_BYTES
            assert letter.reason, letter.error
            assert "\n" not in letter.reason, letter.reason
            tally.reasons[letter.error] += 1
        tally.messages += len(records)
        tally.dead += len(intake.dead)
        tally.taken += len(records) - len(intake.dead)
        tally.counts.update(intake.counts | {"trained": len(intake.events)})
    return tally


def learned(settings: Settings, messages: int, seed: int) -> int:
    """Through the whole learner; how many lists were published."""
    decode = JsonDecoder({settings.topic(kind): kind for kind in KINDS})
    processor = Processor(settings, torch.device("cpu"), decode, dead_letter_output)
    lists = 0
    for epoch, records in enumerate(batches(settings, messages, seed), 1):
        applied = processor.apply(epoch, records, NOW)
        assert applied.counts.conserved
        lists += applied.counts.lists
    for name, tensor in processor.state().items():
        if tensor.is_floating_point() and "prequential" not in name and "loss" not in name:
            assert not torch.isnan(tensor).any(), f"{name} holds NaN"
    return lists


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--learned", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    tally = decoded(Settings(), options.messages, options.seed)
    print(
        f"{tally.messages:,} messages in {time.monotonic() - began:.0f} s: {tally.taken:,} taken, {tally.dead:,} dead "
        f"letters ({', '.join(f'{name} {count:,}' for name, count in tally.reasons.most_common())})"
    )
    print("events: " + ", ".join(f"{name} {count:,}" for name, count in tally.counts.most_common()))
    began = time.monotonic()
    lists = learned(Settings(), options.learned, options.seed)
    print(f"{options.learned:,} through the whole learner in {time.monotonic() - began:.0f} s: {lists:,} lists")


if __name__ == "__main__":
    main()
