"""Merges a source's partitions by append time, so that a backlog is read in the order in which it was written."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence

from pipeline.messages import Range, Record, TopicPartition
from pipeline.ports import Clock, Positions, Source

FRESH_MS = 2_000
PATIENCE_S = 1.0
WAIT_S = 0.02
READ_AHEAD = 5_000
MOST_HELD = 20_000


class AlignedSource:
    """A `ports.Source` over another one.

    Without this a consumer with a year of backlog reads one partition months
    ahead of the next, and events of the others come late; items would come
    after the events that name them. A record is held back while a partition
    that still has unread records shows none, unless it was appended in the last
    two seconds (then nothing much older can be missing) or a second was waited.
    """

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._held: dict[TopicPartition, deque[Record]] = {}
        self._patient = True

    def partitions(self) -> list[TopicPartition]:
        """The source's."""
        return self._source.partitions()

    def starts(self) -> dict[TopicPartition, int]:
        """The source's."""
        return self._source.starts()

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets; what was held back is let go."""
        self._held = {}
        self._source.seek(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records`, oldest first."""
        began = time.monotonic()
        self._fill(max_records, 0.0 if self._held else timeout_s)
        while self._held and self._missing() and not self._fresh(self._oldest()):
            if time.monotonic() - began > PATIENCE_S:
                self._patient = False
                break
            self._fill(max_records, WAIT_S)
        polled: list[Record] = []
        while self._held and len(polled) < max_records:
            place = self._oldest()
            polled.append(self._held[place].popleft())
            if not self._held[place]:
                del self._held[place]
                if self._patient and self._held and self._missing() and not self._fresh(self._oldest()):
                    break
        self._patient = True
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to be handed out, of each partition."""
        ahead = self._source.positions()
        return {tp: self._held[tp][0].offset if tp in self._held else at for tp, at in ahead.items()}

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """The source's."""
        return self._source.high_watermarks()

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The source's."""
        return self._source.read(ranges)

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _fill(self, max_records: int, timeout_s: float) -> None:
        if sum(map(len, self._held.values())) >= MOST_HELD:
            return
        for record in self._source.poll(max(max_records, READ_AHEAD), timeout_s):
            self._held.setdefault(TopicPartition(record.topic, record.partition), deque()).append(record)

    def _oldest(self) -> TopicPartition:
        return min(self._held, key=lambda tp: (self._held[tp][0].timestamp, tp))

    def _fresh(self, place: TopicPartition) -> bool:
        return self._held[place][0].timestamp >= self._clock.now_ms() - FRESH_MS

    def _missing(self) -> bool:
        """Whether some partition has unread records, of which none is here."""
        positions = self._source.positions()
        ends = self._source.high_watermarks()
        return any(tp not in self._held and at < ends.get(tp, 0) for tp, at in positions.items())
