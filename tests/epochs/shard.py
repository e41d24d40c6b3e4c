"""A learner shard over the in-memory log, with a clock moved by hand: where tests of runner and recovery start."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prometheus_client import CollectorRegistry

from consumers.decoding import JsonDecoder
from consumers.memory import MemoryLog, MemorySource
from pipeline.epochs.poison import MemoryNote, Note
from pipeline.epochs.processor import Processor
from pipeline.epochs.recovery import Identity
from pipeline.epochs.snapshot import FORMAT, MAGIC, MemorySnapshotStore
from pipeline.learning.paging import MemoryColdStore
from pipeline.messages import EventVector, Manifest, Output, Record, Source, TopicPartition, Vector, encode
from pipeline.ports import ColdStore, Decoder, SnapshotStore
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.runtime.runner import Health, Parts, Runner
from pipeline.settings import Settings
from producers.dead_letters import dead_letter_output
from producers.memory import Fault, MemorySink

KINDS = ("events", "items", "users", "vectors", "event-vectors")
START_MS = 1_700_000_000_000
WIDTH = 8
FINGERPRINT = "test threads-1"
MOST_TURNS = 5_000


def tiny_settings(**changed: dict[str, Any]) -> Settings:
    """As small as the settings allow; `changed` holds further keys by section."""
    sections: dict[str, Any] = {
        "learning": {
            "width": 8, "sequence": 4, "history": 8, "neighbours": 8, "candidates": 20, "interest_steps": 1,
            "micro_batch": 16, "threads": 1, "device": "cpu", "allowed_lateness_s": 3600,
        },
        "publishing": {"similar_interval_s": 1, "trending_interval_s": 1},
        "epochs": {"max_events": 7, "linger_ms": 0, "snapshot_interval_s": 1e9},
        "encoding": {"model": "hashing-8"},
        "metrics": {"peers": False},
    }  # fmt: skip
    for section, keys in changed.items():
        sections[section] = sections.get(section, {}) | keys
    return Settings(**sections)


def of_a_later_version(path: Path) -> None:
    """A snapshot file as a later version would write it, its checksum in order."""
    raw = bytearray(path.read_bytes()[: -hashlib.sha256().digest_size])
    raw[len(MAGIC)] = FORMAT + 1
    path.write_bytes(bytes(raw) + hashlib.sha256(raw).digest())


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.at = START_MS

    def now_ms(self) -> int:
        return self.at


class Script(threading.Event):
    """Asked whether to stop, it first does the next step of a script; when all is done and read it says yes."""

    def __init__(self, steps: Iterable[Callable[[], object]], finished: Callable[[], bool]) -> None:
        super().__init__()
        self._steps = iter(steps)
        self._finished = finished
        self._turns = 0

    def is_set(self) -> bool:
        self._turns += 1
        assert self._turns < MOST_TURNS, "the runner turns and turns and does not come to the end of the log"
        step = next(self._steps, None)
        if step is not None:
            step()
            return super().is_set()
        return super().is_set() or self._finished()

    def wait(self, timeout: float | None = None) -> bool:
        """Nobody sleeps here."""
        return super().is_set()


class Shard:
    """A log, snapshots and a clock, and runners over them. `faults` and `crash_after` outlive the runners."""

    def __init__(self, settings: Settings | None = None, partitions: int = 2) -> None:
        self.settings = settings or tiny_settings()
        self.clock = ManualClock()
        self.log = MemoryLog(self.clock, {self.settings.topic(kind): partitions for kind in KINDS})
        for kind in ("recommendations", "similar"):
            self.log.create(self.settings.topic(kind), partitions)
        for kind in KINDS:
            self.log.create(f"{self.settings.topic(kind)}.dlq", 1)
        self.log.create(self.settings.topic("epochs"), 1)
        self.snapshots: SnapshotStore = MemorySnapshotStore()
        self.cold: ColdStore = MemoryColdStore(keeps=True)
        self.faults: list[Fault] = []
        self.crash_after: list[int] = []
        self.decode: Decoder = JsonDecoder({self.settings.topic(kind): kind for kind in KINDS})
        self.note: Note = MemoryNote()
        self.lives = 0
        self.health = Health()
        self.name = f"{self.settings.namespace}.learner.{self.settings.instance}"

    def source(self) -> MemorySource:
        return MemorySource(self.log, [self.settings.topic(kind) for kind in KINDS], self.crash_after)

    def sink(self) -> MemorySink:
        return MemorySink(self.log, self.name, self.settings.topic("epochs"), group=self.name, faults=self.faults)

    def processor(self, settings: Settings | None = None) -> Processor:
        used = settings or self.settings
        return Processor(used, torch.device("cpu"), self.decode, dead_letter_output, cold=self.cold)

    def runner(
        self,
        *,
        settings: Settings | None = None,
        instance: str | None = None,
        fingerprint: str = FINGERPRINT,
        accept_gap: bool = False,
        make_source: Callable[[], MemorySource] | None = None,
        make_sink: Callable[[], MemorySink] | None = None,
    ) -> Runner:
        """A new life's runner; crashed predecessors' snapshot threads are waited for."""
        for thread in threading.enumerate():
            if thread.name == "snapshot":
                thread.join()
        self.lives += 1
        self.health = Health()
        used = settings or self.settings
        return Runner(
            Parts(
                settings=used,
                make_source=make_source or self.source,
                make_sink=make_sink or self.sink,
                make_processor=lambda: self.processor(used),
                snapshots=self.snapshots,
                who=Identity(instance or f"life-{self.lives}", fingerprint),
                clock=self.clock,
                metrics=LearnerMetrics(CollectorRegistry()),
                health=self.health,
                accept_gap=accept_gap,
                note=self.note,
            )
        )

    def script(self, steps: Iterable[Callable[[], object]] = ()) -> Script:
        """For the runner made last: does the steps, one a turn, then stops once it has recovered and all is read."""
        ready = self.health.ready
        return Script(steps, lambda: ready.is_set() and self.all_read())

    def run(self, steps: Iterable[Callable[[], object]] = (), **how: Any) -> Runner:
        """One life that reads all there is."""
        runner = self.runner(**how)
        runner.run(self.script(steps))
        return runner

    def all_read(self) -> bool:
        """Whether the committed positions have passed every input record."""
        committed = self.log.committed(self.name)
        places = [place for kind in KINDS for place in self.log.topic_partitions(self.settings.topic(kind))]
        return all(committed.get(place, 0) >= self.log.end(place) for place in places)

    def manifests(self) -> list[Manifest]:
        """What is committed."""
        return list(self.sink().manifests())

    def append(self, kind: str, key: str | None, value: bytes | dict[str, Any] | None) -> None:
        """Into an input topic, appended now."""
        raw = json.dumps(value).encode() if isinstance(value, dict) else value
        self.log.append(Output(self.settings.topic(kind), None if key is None else key.encode(), raw))

    def event(self, user: str, item: str, event_type: str = "like", **fields: Any) -> None:
        """An event that happens now."""
        happened = {"event_type": event_type, "user_id": user, "item_id": item, "timestamp": self.clock.at}
        self.append("events", user, {k: v for k, v in (happened | fields).items() if v is not None})

    def item(self, item: str, **fields: Any) -> None:
        """An item and its vector."""
        self.append("items", item, {"item_id": item, "title": item} | fields)
        self.append("vectors", item, encode(Vector(item, vector_of(item), "hashing", item, Source(0, 0))))

    def text_vector(self, user: str, event_id: str) -> None:
        """The vector of a text that the event of this id carries."""
        vector = EventVector(
            user, event_id, "search", self.clock.at, vector_of(event_id), "hashing", event_id, Source(0, 0)
        )
        self.append("event-vectors", user, encode(vector))


def vector_of(name: str) -> bytes:
    """A unit vector that depends on the name alone."""
    values = np.random.default_rng(list(name.encode())).normal(size=WIDTH)
    return (values / np.linalg.norm(values)).astype("<f4").tobytes()


def shop(shard: Shard, chance: random.Random, items: int = 8, users: int = 5) -> Iterator[Callable[[], None]]:
    """Endless small steps, each appending something and moving the clock: a shop's stream with all that goes wrong."""
    number = 0
    for item in range(items):
        yield lambda item=item: shard.item(f"i{item}")  # type: ignore[misc]
    while True:
        number += 1
        user, item = f"u{chance.randrange(users)}", f"i{chance.randrange(items + 2)}"
        yield lambda n=number, u=user, i=item: _happen(shard, chance, n, u, i)  # type: ignore[misc]


def _happen(shard: Shard, chance: random.Random, number: int, user: str, item: str) -> None:
    shard.clock.at += chance.choice((0, 1, 700, 5_000))
    event_id = f"e{number}"
    match chance.randrange(16):
        case 0:
            shard.event(user, item, event_id=f"e{max(1, number - 3)}")
        case 1:
            shard.append("events", chance.choice((user, None)), chance.choice((b"{", b"\x00avro", b"[]", b"")))
        case 2:
            shard.event(user, item, timestamp=shard.clock.at - 7_200_000, event_id=event_id)
        case 3:
            shard.append("users", user, None)
        case 4:
            gone = b'{"item_id":"%b","available":false}' % item.encode()
            shard.append("items", item, chance.choice((None, b"{", gone)))
        case 5:
            shard.event(user, "", "search", item_id=None, text="shoes", event_id=event_id)
            if chance.random() < 0.7:
                shard.text_vector(user, event_id)
        case 6:
            shard.event(user, "", "identify", item_id=None, anonymous_id=f"u{chance.randrange(5)}", event_id=event_id)
        case 7:
            shard.event(user, item, "purchase")
        case 8:
            shard.item(item, categories=["again"])
        case 9:
            shard.event(user, "", "search", item_id=None)
        case _:
            shard.event(user, item, event_id=event_id)


class WholeLog:
    """An in-memory log as the oracle reads logs."""

    def __init__(self, shard: Shard) -> None:
        self._log = shard.log

    def places(self, topics: Iterable[str]) -> list[tuple[str, int]]:
        return sorted((p.topic, p.partition) for topic in topics for p in self._log.topic_partitions(topic))

    def start(self, place: tuple[str, int]) -> int:
        return self._log.start(TopicPartition(*place))

    def held(self, place: tuple[str, int]) -> int:
        return self.start(place)

    def partition(self, place: tuple[str, int]) -> list[Record]:
        where = TopicPartition(*place)
        return self._log.read(where, self._log.start(where), 1 << 40)[0]

    def between(self, place: tuple[str, int], start: int, stop: int) -> Sequence[Record]:
        records = self.partition(place)
        offsets = [record.offset for record in records]
        return records[bisect_left(offsets, start) : bisect_left(offsets, stop)]

    def committed(self, group: str, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int | None]:
        found = self._log.committed(group)
        return {place: found.get(TopicPartition(*place)) for place in places}
