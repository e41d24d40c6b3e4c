"""Reads offset ranges of a Kafka log again, as a restart does for every manifest after its snapshot."""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return"
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kafka import TopicPartition as KafkaPartition
from kafka.errors import OffsetOutOfRangeError

from consumers.kafka_client import log_ends, log_starts, name, new_consumer, reaching, to_record
from pipeline.messages import Range, Record
from pipeline.ports import LogGap

_POLL_MS = 500
# No limit: kafka-python 3.0.12 sets the rest of a limited poll aside when its partition is paused, and once
# resumed may neither give it out nor fetch the partition again. max_partition_fetch_bytes bounds a poll.
_POLL_RECORDS = sys.maxsize
_QUIET_S = 10.0
# What was fetched ahead of each partition is kept for the next range: that much of each, as it was compressed.
_AHEAD_BYTES = 1 << 20


class KafkaReplay:
    """A reader of ranges with a consumer of its own; consecutive ranges of a partition cost no seek.

    Every partition stays assigned and all but the one being read are paused,
    so that what was fetched ahead serves the next range.
    """

    def __init__(self, bootstrap: str, options: Mapping[str, Any] | None = None) -> None:
        """Connects at once; raises ConnectionError."""
        self._bootstrap = bootstrap
        fetch = {"max_partition_fetch_bytes": _AHEAD_BYTES}
        self._consumer = new_consumer(bootstrap, _POLL_MS, fetch | dict(options or {}))
        self._ahead: defaultdict[KafkaPartition, deque[Record]] = defaultdict(deque)
        self._next: dict[KafkaPartition, int] = {}
        self._stable_ends: dict[KafkaPartition, int] = {}

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The committed records of each range, in order; raises LogGap naming a range that is not there."""
        wanted = [each for each in ranges if each.stop > each.start]
        self._assign(wanted)
        for each in wanted:
            yield from self._read(each, KafkaPartition(each.topic, each.partition))

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close(autocommit=False)

    def _assign(self, ranges: Sequence[Range]) -> None:
        partitions = {KafkaPartition(each.topic, each.partition) for each in ranges}
        for each in ranges:
            partition = KafkaPartition(each.topic, each.partition)
            if self._stable_ends.get(partition, -1) < each.stop:
                self._refresh_ends(partitions)
            if self._stable_ends[partition] < each.stop:
                raise self._gap(each)
        if partitions - self._consumer.assignment():
            self._consumer.assign(sorted(self._consumer.assignment() | partitions))
            for partition in self._consumer.assignment():
                self._consumer.seek(partition, 0)
            # A changed assignment starts unpaused, with what was fetched ahead gone.
            self._consumer.pause(*self._consumer.assignment())
            for partition, buffer in self._ahead.items():
                buffer.clear()
                self._next.pop(partition, None)

    def _read(self, wanted: Range, partition: KafkaPartition) -> Iterator[Record]:
        buffer = self._ahead[partition]
        if self._next.get(partition) != wanted.start:
            buffer.clear()
            self._consumer.seek(partition, wanted.start)
            self._next[partition] = wanted.start
        self._consumer.pause(*(self._consumer.assignment() - {partition}))
        self._consumer.resume(partition)
        heard = time.monotonic()
        while True:
            while buffer and buffer[0].offset < wanted.stop:
                record = buffer.popleft()
                self._next[partition] = record.offset + 1
                yield record
            if buffer or self._position(partition) >= wanted.stop:
                break
            if self._fetch(wanted, partition):
                heard = time.monotonic()
            elif time.monotonic() - heard > _QUIET_S:
                # Compaction can leave nothing, not even an empty batch, below the end. A broker
                # that answers and has nothing more to give says so; one that is down raises here.
                self._refresh_ends({partition})
                self._consumer.seek(partition, wanted.stop)
                break
        self._next[partition] = wanted.stop

    def _fetch(self, wanted: Range, partition: KafkaPartition) -> bool:
        """Poll once; whether the position moved."""
        before = self._position(partition)
        with reaching(self._bootstrap):
            try:
                polled = self._consumer.poll(timeout_ms=_POLL_MS, max_records=_POLL_RECORDS)
            except OffsetOutOfRangeError:
                raise self._gap(wanted) from None
        for at, records in polled.items():
            self._ahead[at].extend(map(to_record, records))
        return self._position(partition) > before

    def _position(self, partition: KafkaPartition) -> int:
        with reaching(self._bootstrap):
            return int(self._consumer.position(partition, timeout_ms=_POLL_MS))

    def _refresh_ends(self, partitions: set[KafkaPartition]) -> None:
        with reaching(self._bootstrap):
            self._stable_ends.update(log_ends(self._consumer, partitions))

    def _gap(self, wanted: Range) -> LogGap:
        partition = KafkaPartition(wanted.topic, wanted.partition)
        with reaching(self._bootstrap):
            start = log_starts(self._consumer, [partition])[partition]
            end = log_ends(self._consumer, [partition])[partition]
        return LogGap(f"{name(partition)}: [{wanted.start}, {wanted.stop}) is wanted, the log holds [{start}, {end})")
