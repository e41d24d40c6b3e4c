"""Everything that is committed in some topics, read with kafka-python alone; and what was, before it was deleted."""

from __future__ import annotations

import pickle
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from pipeline.messages import Record

Place = tuple[str, int]
PATIENCE_S = 60.0
KEPT = "records.kept"


class CommittedLog:
    """The records that a read_committed consumer sees, by topic and partition, up to the end as it was at the start."""

    def __init__(self, bootstrap: str, topics: Sequence[str], kept: Path | None = None) -> None:
        """Reads it all; raises AssertionError where the end is not reached.

        What the log has lost since it was kept is taken from the file `kept`, if there is one.
        """
        self._bootstrap = bootstrap
        consumer = KafkaConsumer(
            bootstrap_servers=bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=16 << 20,
            fetch_max_wait_ms=50,
        )
        try:
            self._starts, self._ends = self._bounds(consumer, topics)
            self._records: dict[Place, list[Record]] = {place: [] for place in self._starts}
            self._read(consumer)
        finally:
            consumer.close(autocommit=False)
        self._held = dict(self._starts)
        if kept is not None and kept.exists():
            self._remember(*pickle.loads(kept.read_bytes()))
        self._offsets = {place: [r.offset for r in records] for place, records in self._records.items()}

    def places(self, topics: Iterable[str]) -> list[Place]:
        """The partitions of these topics."""
        wanted = set(topics)
        return sorted(place for place in self._starts if place[0] in wanted)

    def start(self, place: Place) -> int:
        """The first offset that is known of the partition."""
        return self._starts[place]

    def held(self, place: Place) -> int:
        """The first offset that the partition itself still holds."""
        return self._held[place]

    def end(self, place: Place) -> int:
        """Where the partition ended when it was read."""
        return self._ends[place]

    def keep(self, file: Path) -> None:
        """Write it all down, for the time when the log has lost it."""
        file.write_bytes(pickle.dumps((self._starts, self._ends, self._records)))

    def partition(self, place: Place) -> list[Record]:
        """All records of a partition, in order."""
        return self._records[place]

    def between(self, place: Place, start: int, stop: int) -> list[Record]:
        """The records with start <= offset < stop."""
        assert start >= self._starts[place], f"{place}: offset {start} is no longer held"
        assert stop <= self._ends[place], f"{place}: offset {stop} is beyond the end {self._ends[place]}"
        offsets = self._offsets[place]
        return self._records[place][bisect_left(offsets, start) : bisect_left(offsets, stop)]

    def committed(self, group: str, places: Iterable[Place]) -> dict[Place, int | None]:
        """A group's committed positions."""
        consumer = KafkaConsumer(bootstrap_servers=self._bootstrap, group_id=group, enable_auto_commit=False)
        try:
            return {place: consumer.committed(TopicPartition(*place)) for place in places}
        finally:
            consumer.close(autocommit=False)

    def _remember(self, starts: dict[Place, int], ends: dict[Place, int], records: dict[Place, list[Record]]) -> None:
        for place, start in starts.items():
            held = self._starts[place]
            if start < held:
                assert ends[place] >= held, f"{place}: [{ends[place]}, {held}) was deleted before it was kept"
                lost = [record for record in records[place] if record.offset < held]
                self._records[place] = lost + self._records[place]
                self._starts[place] = start

    def _bounds(self, consumer: KafkaConsumer, topics: Sequence[str]) -> tuple[dict[Place, int], dict[Place, int]]:
        starts: dict[Place, int] = {}
        ends: dict[Place, int] = {}
        for topic in topics:
            numbers = consumer.partitions_for_topic(topic)
            assert numbers, f"there is no topic {topic}"
            asked = [TopicPartition(topic, number) for number in sorted(numbers)]
            starts |= {tuple(tp): offset for tp, offset in consumer.beginning_offsets(asked).items()}
            ends |= {tuple(tp): offset for tp, offset in consumer.end_offsets(asked).items()}
        return starts, ends

    def _read(self, consumer: KafkaConsumer) -> None:
        consumer.assign([TopicPartition(*place) for place in self._starts])
        for place, offset in self._starts.items():
            consumer.seek(TopicPartition(*place), offset)
        heard = time.monotonic()
        while behind := [p for p, end in self._ends.items() if consumer.position(TopicPartition(*p)) < end]:
            for tp, records in consumer.poll(timeout_ms=500, max_records=5000).items():
                heard = time.monotonic()
                for r in records:
                    headers = tuple((name, value or b"") for name, value in r.headers or ())
                    record = Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.value, headers)
                    self._records[tuple(tp)].append(record)
            assert time.monotonic() - heard < PATIENCE_S, f"cannot read to the end of {behind}"
