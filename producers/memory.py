"""A Sink over the in-memory log; its commits can be made to fail in every way that matters."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

import msgspec

from consumers.memory_log import Crash, MemoryLog
from pipeline.messages import Manifest, Output, TopicPartition, encode
from pipeline.ports import CommitUnknown, Positions


class Fault(enum.Enum):
    """What befalls one commit."""

    NONE = enum.auto()
    CRASH_BEFORE_SEND = enum.auto()
    CRASH_BEFORE_COMMIT = enum.auto()
    CRASH_AFTER_COMMIT = enum.auto()
    UNKNOWN_NOT_COMMITTED = enum.auto()
    UNKNOWN_COMMITTED = enum.auto()


class MemorySink:
    """Writes to `log` in transactions. A `ports.Sink`.

    `group` names whose positions are committed; None commits none. `faults`
    are taken off the front, one per commit: hand the same list to the sink's
    successor. A crash before the commit leaves the transaction open, as a
    killed process does.
    """

    def __init__(
        self,
        log: MemoryLog,
        transactional_id: str,
        epochs_topic: str | None = None,
        *,
        epochs_partition: int = 0,
        group: str | None = None,
        faults: list[Fault] | None = None,
    ) -> None:
        """Not yet the owner of its transactional id: that is `start`."""
        self._log = log
        self._id = transactional_id
        self._epochs_topic = epochs_topic
        self._epochs_partition = epochs_partition
        self._group = group
        self._faults = faults if faults is not None else []
        self._epoch: int | None = None

    def start(self) -> None:
        """Fence the predecessor and abort what it left open."""
        self._epoch = self._log.take_over(self._id)

    def manifests(self, start: int = 0) -> Iterator[Manifest]:
        """The committed manifests from offset `start`, oldest first."""
        if self._epochs_topic is None:
            return
        place = TopicPartition(self._epochs_topic, self._epochs_partition)
        if place not in self._log.topic_partitions(self._epochs_topic):
            return
        end = self._log.end(place)
        records, _ = self._log.read(place, min(max(self._log.start(place), start), end), end)
        for record in records:
            yield msgspec.json.decode(record.value or b"", type=Manifest)

    def commit(self, outputs: Sequence[Output], manifest: Manifest | None, positions: Positions) -> int:
        """All in one transaction, unless a fault is due."""
        at = -1
        fault = self._faults.pop(0) if self._faults else Fault.NONE
        epoch = self._started()
        if fault is Fault.CRASH_BEFORE_SEND:
            raise Crash("scripted, before the transaction")
        self._log.begin(self._id, epoch)
        for output in outputs:
            self._log.send(self._id, epoch, output)
        if manifest is not None:
            at = self._log.send(self._id, epoch, self._manifest_record(manifest), self._epochs_partition)
        if fault is Fault.CRASH_BEFORE_COMMIT:
            raise Crash("scripted, before the commit")
        if fault is Fault.UNKNOWN_NOT_COMMITTED:
            raise CommitUnknown("scripted: the answer was lost, so was the request")
        self._log.commit(self._id, epoch, self._group, positions)
        if fault is Fault.CRASH_AFTER_COMMIT:
            raise Crash("scripted, after the commit")
        if fault is Fault.UNKNOWN_COMMITTED:
            raise CommitUnknown("scripted: the answer was lost, the request was not")
        return at

    def close(self) -> None:
        """Leave an open transaction to be fenced."""

    def _started(self) -> int:
        if self._epoch is None:
            raise RuntimeError("start() must come first")
        return self._epoch

    def _manifest_record(self, manifest: Manifest) -> Output:
        if self._epochs_topic is None:
            raise RuntimeError("a manifest needs an epochs topic")
        return Output(self._epochs_topic, manifest.instance.encode(), encode(manifest))
