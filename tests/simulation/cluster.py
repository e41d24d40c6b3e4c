"""Kafka in memory, and kafka-python's clients over it: the real source and sink run on them, unchanged.

What is modelled is what the protocol's safety depends on: transactions and
their markers, fencing, the last stable offset, a coordinator that gives a
transaction up, a commit request that is still on its way when its sender has
died, retention, new partitions; and of kafka-python what `producers.kafka` says
of it: a lost batch that the commit does not mind, an epoch bumped behind the
caller's back, after which a commit succeeds and does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition as KafkaPartition
from kafka.errors import (
    InvalidProducerEpochError,
    KafkaConnectionError,
    KafkaTimeoutError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    OutOfOrderSequenceNumberError,
    ProducerFencedError,
)

from consumers.memory_log import MemoryLog
from pipeline.messages import Output, Record, TopicPartition
from pipeline.ports import Fenced

Effect = Callable[[str], str | None]
"""Called before each request or write; may raise, and names the fault that befalls what follows."""


@dataclass(frozen=True)
class Flying:
    """A commit request on its way: it arrives though its sender may be dead."""

    transactional_id: str
    epoch: int
    group: str | None
    positions: dict[TopicPartition, int]


class Cluster:
    """The brokers, and what is on the wire."""

    def __init__(self, log: MemoryLog, effect: Effect, fly: Callable[[Flying], None]) -> None:
        self.log = log
        self.effect = effect
        self.fly = fly

    def arrive(self, request: Flying) -> None:
        """A commit request is here at last; that of a fenced producer is refused, and nobody hears it."""
        try:
            self.commit(request)
        except (Fenced, RuntimeError):
            return

    def commit(self, request: Flying) -> None:
        """What it asks for; raises Fenced."""
        self.log.commit(request.transactional_id, request.epoch, request.group, request.positions)

    def request(self, kind: str) -> str | None:
        """An effect that a broker may not answer."""
        fault = self.effect(kind)
        if fault == "away":
            raise KafkaConnectionError("simulated: no answer")
        return fault


class _Future:
    def __init__(self) -> None:
        self.offset = -1
        self.error: Exception | None = None

    def get(self, timeout: float) -> _Future:
        if self.error is not None:
            raise self.error
        assert self.offset >= 0, "asked before the record was sent"
        return self


class Producer:
    """A transactional KafkaProducer, as far as a sink uses one."""

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        assert options["enable_idempotence"]
        assert options["acks"] == "all"
        assert options["delivery_timeout_ms"] > options["transaction_timeout_ms"]
        self._cluster = cluster
        self._id: str = options["transactional_id"]
        self._epoch = -1
        self._open = False
        self._buffer: list[tuple[Output, int | None, _Future]] = []
        self._group: str | None = None
        self._positions: dict[TopicPartition, int] = {}

    def init_transactions(self) -> None:
        self._cluster.request("init")
        self._epoch = self._cluster.log.take_over(self._id)

    def begin_transaction(self) -> None:
        assert not self._open, "a transaction is open"
        self._fencing(lambda: self._cluster.log.begin(self._id, self._epoch))
        self._open = True
        self._group, self._positions = None, {}

    def abort_transaction(self) -> None:
        """Known to nobody here but the mutants."""
        self._cluster.request("abort")
        self._epoch = self._fencing(lambda: self._cluster.log.take_over(self._id))
        self._open = False

    def commit_outside(self, positions: Mapping[TopicPartition, int], group: str) -> None:
        """Likewise: a group's positions without a transaction."""
        self._cluster.request("offsets")
        epoch = self._cluster.log.take_over("outside")
        self._cluster.log.begin("outside", epoch)
        self._cluster.log.commit("outside", epoch, group, positions)

    def partitions_for(self, topic: str) -> set[int]:
        return set(range(len(self._cluster.log.topic_partitions(topic))))

    def send(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Any = (),
        partition: int | None = None,
    ) -> _Future:  # fmt: skip
        future = _Future()
        self._buffer.append((Output(topic, key, value, tuple(headers)), partition, future))
        return future

    def flush(self, timeout: float | None = None) -> None:
        """A request for each topic; what becomes of its records, their futures say."""
        by_topic: dict[str, list[tuple[Output, int | None, _Future]]] = {}
        for entry in self._buffer:
            by_topic.setdefault(entry[0].topic, []).append(entry)
        self._buffer = []
        for entries in by_topic.values():
            error = self._produce(entries)
            for _, _, future in entries:
                future.error = error

    def send_offsets_to_transaction(self, offsets: Mapping[KafkaPartition, Any], group: str) -> None:
        self._cluster.request("offsets")
        if not self._open:
            return
        self._fencing(lambda: self._cluster.log.check(self._id, self._epoch))
        self._group = group
        self._positions = {TopicPartition(tp.topic, tp.partition): at.offset for tp, at in offsets.items()}

    def commit_transaction(self) -> None:
        if not self._open:
            return  # the epoch was bumped: success, for nothing
        request = self.flying()
        self._open = False
        fault = self._cluster.request("commit")
        if fault == "unknown":
            self._cluster.fly(request)
            raise KafkaTimeoutError("simulated: the answer did not come")
        self._fencing(lambda: self._cluster.commit(request))
        if self._cluster.effect("committed") == "unknown":
            raise KafkaTimeoutError("simulated: the answer was lost")

    def close(self, timeout: float) -> None:
        """Nothing to let go of."""

    def flying(self) -> Flying:
        """The request that a crash during the commit leaves on the wire."""
        return Flying(self._id, self._epoch, self._group, self._positions)

    def _produce(self, entries: list[tuple[Output, int | None, _Future]]) -> Exception | None:
        fault = self._cluster.request("produce")
        if fault == "lose":
            return KafkaTimeoutError("simulated: the batch expired")
        if not self._open:
            return ProducerFencedError("no transaction")
        try:
            if fault == "bump":
                self._epoch = self._cluster.log.take_over(self._id)
                self._open = False
                return OutOfOrderSequenceNumberError("simulated")
            for output, partition, future in entries:
                future.offset = self._cluster.log.send(self._id, self._epoch, output, partition)
        except Fenced as error:
            return InvalidProducerEpochError(str(error))
        return None

    def _fencing(self, request: Callable[[], Any]) -> Any:
        try:
            return request()
        except Fenced as error:
            raise ProducerFencedError(str(error)) from None


class Consumer:
    """A KafkaConsumer with assigned partitions, as far as sources and sinks use one."""

    def __init__(self, cluster: Cluster, advance: Callable[[float], None], **options: Any) -> None:
        cluster.request("connect")
        self._cluster = cluster
        self._advance = advance
        self._reset: str = options["auto_offset_reset"]
        self._committed_only = options["isolation_level"] == "read_committed"
        assert not options["enable_auto_commit"]
        self._at: dict[KafkaPartition, int | None] = {}
        self._paused: set[KafkaPartition] = set()
        self._ends: dict[KafkaPartition, int] = {}
        self._turn = 0
        self._fetcher = SimpleNamespace(config={})

    def assign(self, partitions: Iterable[KafkaPartition]) -> None:
        self._at = dict.fromkeys(partitions)
        self._paused = set()

    def assignment(self) -> set[KafkaPartition]:
        return set(self._at)

    def seek(self, partition: KafkaPartition, offset: int) -> None:
        self._at[partition] = offset

    def pause(self, *partitions: KafkaPartition) -> None:
        self._paused |= set(partitions)

    def resume(self, *partitions: KafkaPartition) -> None:
        self._paused -= set(partitions)

    def position(self, partition: KafkaPartition, timeout_ms: float = 0) -> int:
        at = self._at[partition]
        if at is None:
            raise NoOffsetForPartitionError(partition)
        return at

    def highwater(self, partition: KafkaPartition) -> int | None:
        return self._ends.get(partition)

    def beginning_offsets(self, partitions: Iterable[KafkaPartition]) -> dict[KafkaPartition, int]:
        self._cluster.request("metadata")
        return {tp: self._cluster.log.start(TopicPartition(*tp)) for tp in partitions}

    def end_offsets(self, partitions: Iterable[KafkaPartition]) -> dict[KafkaPartition, int]:
        self._cluster.request("metadata")
        return {tp: self._cluster.log.stable_end(TopicPartition(*tp)) for tp in partitions}

    def poll(self, timeout_ms: float, max_records: int) -> dict[KafkaPartition, list[Any]]:
        """One partition's records after the other's, beginning with another one each time."""
        self._cluster.request("fetch")
        log = self._cluster.log
        order = sorted(self._at)
        turn = self._turn % len(order) if order else 0
        self._turn += 1
        polled: dict[KafkaPartition, list[Any]] = {}
        left = max_records
        for partition in order[turn:] + order[:turn]:
            if partition in self._paused:
                continue
            place = TopicPartition(*partition)
            end = log.end(place)
            at = self._within(partition, log.start(place), end)
            self._ends[partition] = end
            if left <= 0 or at == end:
                continue
            records, self._at[partition] = log.read(place, at, left, committed_only=self._committed_only)
            if records:
                polled[partition] = [_consumed(record) for record in records]
                left -= len(records)
        if not polled:
            self._advance(timeout_ms / 1000)
        return polled

    def close(self, autocommit: bool) -> None:
        """Nothing to let go of."""
        assert not autocommit

    def _within(self, partition: KafkaPartition, start: int, end: int) -> int:
        at = self._at[partition]
        if at is None or not start <= at <= end:
            if self._reset == "none":
                raise OffsetOutOfRangeError({partition: at})
            return end if self._reset == "latest" else start
        return at


class Admin:
    """A KafkaAdminClient that knows topics."""

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        cluster.request("connect")
        self._cluster = cluster

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        self._cluster.request("metadata")
        return [
            {
                "name": topic,
                "partitions": [{"partition_index": tp.partition} for tp in self._cluster.log.topic_partitions(topic)],
            }
            for topic in topics
        ]

    def close(self) -> None:
        """Nothing to let go of."""


def _consumed(record: Record) -> Any:
    return SimpleNamespace(
        topic=record.topic, partition=record.partition, offset=record.offset, timestamp=record.timestamp,
        key=record.key, value=record.value, headers=record.headers,
    )  # fmt: skip
