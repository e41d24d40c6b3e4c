"""A Source over the in-memory log; it can be told to crash, which is how recovery is tested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consumers.memory_log import ABORT, Crash, MemoryLog
from pipeline.messages import Range, Record, TopicPartition
from pipeline.ports import LogGap, Positions

__all__ = ["ABORT", "Crash", "MemoryLog", "MemorySource"]


class MemorySource:
    """Reads `topics` of `log`. A `ports.Source`.

    `poll` never waits: what is not in the log now will not come while the only
    thread waits. `crash_after` lists, for this life and the next ones, after how
    many polled records a poll raises `Crash`; a count is taken off the front as
    it fires, so hand the same list to the source's successor. A crash scripted
    in the log itself (`ABORT` in `MemoryLog.extend`) strikes just before the
    record that follows it.
    """

    def __init__(self, log: MemoryLog, topics: Sequence[str], crash_after: list[int] | None = None) -> None:
        """Assigned to nothing until `seek`."""
        self._log = log
        self._topics = tuple(topics)
        self._crash_after = crash_after if crash_after is not None else []
        self._positions: dict[TopicPartition, int] = {}
        self._polled = 0
        self._next = 0

    def partitions(self) -> list[TopicPartition]:
        """The partitions of the topics, sorted."""
        return sorted(place for topic in self._topics for place in self._log.topic_partitions(topic))

    def starts(self) -> dict[TopicPartition, int]:
        """The first offset that each partition still holds."""
        return {place: self._log.start(place) for place in self.partitions()}

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets, these partitions only."""
        self._positions = dict(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records`, the partitions taking turns to come first."""
        if self._crash_after and self._polled >= self._crash_after[0]:
            self._crash_after.pop(0)
            raise Crash(f"scripted, after {self._polled} records")
        order = sorted(self._positions)
        turn = self._next % len(order) if order else 0
        self._next += 1
        allowed = max_records
        if self._crash_after:
            allowed = min(allowed, self._crash_after[0] - self._polled)
        polled: list[Record] = []
        for place in order[turn:] + order[:turn]:
            polled += self._take(place, allowed - len(polled), bool(polled))
        self._polled += len(polled)
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition, past markers."""
        return dict(self._positions)

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """The end of each partition."""
        return {place: self._log.end(place) for place in self._positions}

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The ranges' records again; raises LogGap for what the log does not hold."""
        for wanted in ranges:
            place = TopicPartition(wanted.topic, wanted.partition)
            if wanted.stop <= wanted.start:
                continue
            held = (self._log.start(place), self._log.stable_end(place))
            if wanted.start < held[0] or wanted.stop > held[1]:
                raise LogGap(
                    f"{wanted.topic}-{wanted.partition}: [{wanted.start}, {wanted.stop}) is wanted, "
                    f"the log holds [{held[0]}, {held[1]})"
                )
            records, _ = self._log.read(place, wanted.start, wanted.stop - wanted.start)
            yield from (record for record in records if record.offset < wanted.stop)

    def close(self) -> None:
        """Nothing to let go of."""

    def _take(self, place: TopicPartition, limit: int, already: bool) -> list[Record]:
        """Read one partition, stopping before a scripted crash; if nothing was polled yet, crash there."""
        if limit <= 0:
            return []
        start = self._positions[place]
        records, position = self._log.read(place, start, limit)
        point = self._log.crash_point(place, start, position)
        if point is not None:
            records, position = [record for record in records if record.offset < point], point
            if not records and not already:
                self._log.defuse(place, point)
                raise Crash(f"scripted, before {place.topic}-{place.partition} offset {point}")
        self._positions[place] = position
        return records
