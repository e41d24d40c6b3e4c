"""A shop's traffic, made from the demo's data: events as they happen now, with all that goes wrong in real streams."""

from __future__ import annotations

import gzip
import json
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kafka import KafkaProducer

from pipeline.settings import Settings

DEMO = Path(__file__).parents[2] / "config" / "demo"
MALFORMED = (
    b"{",
    b"\xff\xfe",
    b"\x00\x00\x00\x00\x07avro",
    b'{"event_type":"view"}',
    b'{"event_type":"view","user_id":"","timestamp":1,"item_id":"x"}',
    b'{"event_type":"view","user_id":"u","timestamp":1e400,"item_id":"x"}',
    b"[]",
    b"",
)
Sent = tuple[str, str | None, bytes | None]


def demo(name: str) -> list[dict[str, Any]]:
    """The demo's `items` or `events`."""
    with gzip.open(DEMO / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def catalogue(settings: Settings) -> Iterator[Sent]:
    """Every item, as (topic, key, value)."""
    for item in demo("items"):
        yield settings.topic("items"), item["item_id"], json.dumps(item).encode()


class Traffic:
    """Sends the catalogue, then events at an even rate from a thread, until `finish`. A context manager."""

    def __init__(self, bootstrap: str, settings: Settings, events: int, per_second: float, seed: int) -> None:
        """The topics must exist. `events` bounds how many are sent."""
        self._settings = settings
        self._random = random.Random(seed)
        self._events, self._items = demo("events"), demo("items")
        self._wanted, self._per_second = events, per_second
        self._recent: list[Sent] = []
        self._stop = threading.Event()
        self._failures: list[BaseException] = []
        self.sent = 0
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_block_ms=180_000,
            delivery_timeout_ms=180_000,
            reconnect_backoff_max_ms=500,
            metadata_max_age_ms=2_000,
        )
        self._futures: list[Any] = []
        for sent in catalogue(settings):
            self._send(sent)
        self._producer.flush()
        self._thread = threading.Thread(target=self._run, name="traffic")
        self._thread.start()

    def finish(self) -> None:
        """Stop, and make sure that every record was acknowledged; raises what went wrong. Idempotent."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join()
        self._producer.flush()
        for future in self._futures:
            future.get(timeout=60)
        self._producer.close()
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> Traffic:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """All was sent and acknowledged, or raises what went wrong."""
        self.finish()

    @property
    def exhausted(self) -> bool:
        """Whether all events were sent."""
        return self.sent >= self._wanted

    def _run(self) -> None:
        began = time.monotonic()
        try:
            for number in range(self._wanted):
                if self._stop.wait(max(0.0, began + number / self._per_second - time.monotonic())):
                    return
                for sent in self._happening(number):
                    self._send(sent)
                self.sent = number + 1
        except BaseException as error:
            self._failures.append(error)

    def _send(self, sent: Sent) -> None:
        topic, key, value = sent
        self._futures.append(self._producer.send(topic, value, key=None if key is None else key.encode()))

    def _happening(self, number: int) -> Iterator[Sent]:
        """One event, and now and then something else beside it."""
        events, chance = self._settings.topic("events"), self._random.random()
        event = dict(self._random.choice(self._events), timestamp=time.time_ns() // 1_000_000, event_id=f"e{number}")
        user = event["user_id"]
        if chance < 0.02:
            del event["item_id"], event["value"]
            event |= {"event_type": "search", "text": f"films like {self._random.choice(self._items)['title']}"}
        elif chance < 0.04:
            del event["user_id"]
            event["anonymous_id"] = user = f"visitor-{number % 40}"
        elif chance < 0.05:
            user = event["user_id"] = f"user-{number % 40}"
            event |= {"event_type": "identify", "anonymous_id": f"visitor-{self._random.randrange(40)}"}
        sent: Sent = (events, user, json.dumps(event).encode())
        yield sent
        self._recent = [*self._recent[-200:], sent]
        if 0.05 < chance < 0.08:
            yield self._random.choice(self._recent)
        elif chance < 0.09:
            yield events, self._random.choice((None, user)), self._random.choice(MALFORMED)
        elif chance < 0.095:
            yield self._settings.topic("users"), user, None
        elif chance < 0.10:
            yield self._item_changes()

    def _item_changes(self) -> Sent:
        """Withdrawn, sold out, reworded or broken."""
        item = dict(self._random.choice(self._items))
        topic, key = self._settings.topic("items"), item["item_id"]
        match self._random.randrange(4):
            case 0:
                return topic, key, None
            case 1:
                return topic, key, json.dumps(item | {"available": False}).encode()
            case 2:
                return topic, key, json.dumps(item | {"title": f"{item['title']}, restored"}).encode()
            case _:
                return topic, key, json.dumps(item | {"categories": "not a list"}).encode()
