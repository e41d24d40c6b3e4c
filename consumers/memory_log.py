"""An in-memory log with Kafka's semantics: partitions, transactions, markers, fencing, retention."""

from __future__ import annotations

import enum
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from consumers.partitioning import partition_of
from pipeline.messages import Output, Record, TopicPartition
from pipeline.ports import Clock, Fenced, LogGap, Positions


class Crash(BaseException):
    """A scripted death of the process: not an Exception, so that nothing handles it by accident."""


class Abort(enum.Enum):
    """See `ABORT`."""

    ABORT = enum.auto()


ABORT = Abort.ABORT
"""In the entries given to `MemoryLog.extend`: whoever reads up to here crashes, once."""


class _State(enum.Enum):
    OPEN = enum.auto()
    COMMITTED = enum.auto()
    ABORTED = enum.auto()


@dataclass
class _Transaction:
    state: _State = _State.OPEN
    touched: dict[TopicPartition, int] = field(default_factory=dict)


@dataclass
class _Partition:
    """`entries[i]` lies at offset `start + i`; None is a marker."""

    start: int = 0
    entries: list[tuple[Record, _Transaction] | None] = field(default_factory=list)

    @property
    def end(self) -> int:
        return self.start + len(self.entries)


@dataclass
class _Producer:
    epoch: int = -1
    transaction: _Transaction | None = None


_PLAIN = _Transaction(_State.COMMITTED)


class MemoryLog:
    """Topics of `partitions[topic]` partitions each (else `default_partitions`), created at first use.

    Offsets are contiguous. A transaction, committed or aborted, ends with one
    marker in each partition that it touched, so that readers meet the gaps of
    real Kafka. Records are stamped with `clock` as they are appended
    (LogAppendTime). Thread-safe.
    """

    def __init__(self, clock: Clock, partitions: Mapping[str, int] | None = None, default_partitions: int = 1) -> None:
        """Empty, with the topics of `partitions`."""
        self._clock = clock
        self._default_partitions = default_partitions
        self._logs: dict[TopicPartition, _Partition] = {}
        self._counts: dict[str, int] = {}
        self._producers: defaultdict[str, _Producer] = defaultdict(_Producer)
        self._offsets: defaultdict[str, dict[TopicPartition, int]] = defaultdict(dict)
        self._open: list[_Transaction] = []
        self._crash_points: set[tuple[TopicPartition, int]] = set()
        self._unkeyed = 0
        self._lock = threading.RLock()
        for topic, count in (partitions or {}).items():
            self.create(topic, count)

    def create(self, topic: str, partitions: int) -> None:
        """Make the topic, or give it more partitions; never fewer."""
        with self._lock:
            for number in range(self._counts.get(topic, 0), partitions):
                self._logs[TopicPartition(topic, number)] = _Partition()
            self._counts[topic] = max(partitions, self._counts.get(topic, 0))

    def topic_partitions(self, topic: str) -> list[TopicPartition]:
        """The topic's partitions, in order; none if the topic does not exist."""
        return [TopicPartition(topic, number) for number in range(self._counts.get(topic, 0))]

    def append(
        self, output: Output, *, partition: int | None = None, timestamp: int | None = None
    ) -> tuple[TopicPartition, int]:
        """Append outside any transaction; gives where it lies."""
        with self._lock:
            return self._write(output, _PLAIN, partition, timestamp)

    def extend(self, entries: Iterable[Output | Abort]) -> None:
        """Append each output; after `ABORT`, a source about to hand out the next one raises `Crash`, once."""
        poisoned = False
        for entry in entries:
            if isinstance(entry, Abort):
                poisoned = True
                continue
            place = self.append(entry)
            if poisoned:
                self._crash_points.add(place)
                poisoned = False

    def crash_point(self, partition: TopicPartition, start: int, stop: int) -> int | None:
        """The first record in [start, stop) before which a crash is scripted."""
        offsets = [offset for place, offset in self._crash_points if place == partition]
        return min((offset for offset in offsets if start <= offset < stop), default=None)

    def defuse(self, partition: TopicPartition, offset: int) -> None:
        """Forget the crash scripted before this record."""
        self._crash_points.discard((partition, offset))

    def take_over(self, transactional_id: str) -> int:
        """A new producer epoch: older ones are fenced, their open transaction is aborted."""
        with self._lock:
            producer = self._producers[transactional_id]
            producer.epoch += 1
            if producer.transaction is not None:
                self._finish(producer, _State.ABORTED)
            return producer.epoch

    def begin(self, transactional_id: str, epoch: int) -> None:
        """Open a transaction; raises `Fenced` if `epoch` is not the newest."""
        with self._lock:
            transaction = _Transaction()
            self._current(transactional_id, epoch).transaction = transaction
            self._open.append(transaction)

    def check(self, transactional_id: str, epoch: int) -> None:
        """Raises `Fenced` if `epoch` is not the newest."""
        with self._lock:
            self._current(transactional_id, epoch)

    def is_open(self, transactional_id: str) -> bool:
        """Whether a transaction is."""
        return self._producers[transactional_id].transaction is not None

    def send(self, transactional_id: str, epoch: int, output: Output, partition: int | None = None) -> int:
        """Append within the open transaction: in the log at once, visible when it commits; gives the offset."""
        with self._lock:
            producer = self._current(transactional_id, epoch)
            if producer.transaction is None:
                raise RuntimeError(f"{transactional_id}: no transaction is open")
            return self._write(output, producer.transaction, partition, None)[1]

    def commit(self, transactional_id: str, epoch: int, group: str | None, positions: Positions) -> None:
        """End the open transaction, all at once, with the group's consumed positions."""
        with self._lock:
            producer = self._current(transactional_id, epoch)
            self._finish(producer, _State.COMMITTED)
            if group is not None:
                self._offsets[group].update(positions)

    def committed(self, group: str) -> dict[TopicPartition, int]:
        """The positions that a group has committed."""
        with self._lock:
            return dict(self._offsets[group])

    def start(self, partition: TopicPartition) -> int:
        """The lowest offset that the partition still holds."""
        return self._log(partition).start

    def end(self, partition: TopicPartition) -> int:
        """The offset of the next append."""
        return self._log(partition).end

    def stable_end(self, partition: TopicPartition) -> int:
        """How far readers may go: up to the first record of an open transaction."""
        with self._lock:
            first = [transaction.touched.get(partition) for transaction in self._open]
            return min((offset for offset in first if offset is not None), default=self.end(partition))

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        """What retention does: the records below `offset` are gone."""
        with self._lock:
            log = self._log(partition)
            gone = max(0, min(offset, log.end) - log.start)
            del log.entries[:gone]
            log.start += gone

    def compact_away(self, partition: TopicPartition, offset: int) -> None:
        """What compaction does: one record is gone, its neighbours keep their offsets."""
        with self._lock:
            log = self._log(partition)
            log.entries[offset - log.start] = None

    def read(
        self, partition: TopicPartition, position: int, limit: int, *, committed_only: bool = True
    ) -> tuple[list[Record], int]:
        """At most `limit` committed records from `position` on, and the next position, past markers.

        `committed_only` off is read_uncommitted: all records, of open and
        aborted transactions too. Raises LogGap if `position` is not within the log.
        """
        with self._lock:
            log = self._log(partition)
            if not log.start <= position <= log.end:
                raise LogGap(
                    f"{partition.topic}-{partition.partition}: position {position} is outside the log, "
                    f"which holds [{log.start}, {log.end})"
                )
            records: list[Record] = []
            stable = self.stable_end(partition) if committed_only else log.end
            while position < stable and len(records) < limit:
                entry = log.entries[position - log.start]
                if entry is not None and (entry[1].state is _State.COMMITTED or not committed_only):
                    records.append(entry[0])
                position += 1
            return records, position

    def records(self, topic: str) -> Iterator[Record]:
        """Every committed record of a topic, partition by partition."""
        for partition in self.topic_partitions(topic):
            yield from self.read(partition, self.start(partition), self.end(partition))[0]

    def _log(self, partition: TopicPartition) -> _Partition:
        if partition not in self._logs:
            raise LogGap(f"{partition.topic}-{partition.partition}: there is no such partition")
        return self._logs[partition]

    def _current(self, transactional_id: str, epoch: int) -> _Producer:
        producer = self._producers[transactional_id]
        if epoch != producer.epoch:
            raise Fenced(f"{transactional_id}: epoch {epoch} was fenced by epoch {producer.epoch}")
        return producer

    def _write(
        self, output: Output, transaction: _Transaction, partition: int | None, timestamp: int | None
    ) -> tuple[TopicPartition, int]:
        if output.topic not in self._counts:
            self.create(output.topic, self._default_partitions)
        if partition is None:
            partition = self._choose(output)
        place = TopicPartition(output.topic, partition)
        log = self._log(place)
        offset = log.end
        stamp = self._clock.now_ms() if timestamp is None else timestamp
        record = Record(output.topic, partition, offset, stamp, output.key, output.value, output.headers)
        log.entries.append((record, transaction))
        if transaction is not _PLAIN:
            transaction.touched.setdefault(place, offset)
        return place, offset

    def _choose(self, output: Output) -> int:
        count = self._counts[output.topic]
        key = output.key if output.partition_key is None else output.partition_key
        if key is not None:
            return partition_of(key, count)
        self._unkeyed += 1
        return self._unkeyed % count

    def _finish(self, producer: _Producer, state: _State) -> None:
        if producer.transaction is None:
            raise RuntimeError("no transaction is open")
        producer.transaction.state = state
        self._open = [transaction for transaction in self._open if transaction is not producer.transaction]
        for place in producer.transaction.touched:
            self._log(place).entries.append(None)
        producer.transaction = None
