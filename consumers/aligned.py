"""Merges a source's partitions by append time, so that a backlog is read in the order in which it was written."""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from pipeline.messages import Range, Record, TopicPartition
from pipeline.ports import Clock, Positions, Source

SLACK_MS = 2_000
PATIENCE_S = 1.0
WAIT_S = 0.02
FILL_RECORDS = 2_000
AHEAD_RECORDS = 10_000
MOST_RECORDS = 100_000
MOST_BYTES = 128 << 20


class AlignedSource:
    """A `ports.Source` over another one.

    Without this a reader with a year of backlog reads one partition months
    ahead of the next, and events of the others come late; items would come
    after the events that name them. So a record waits for every partition that
    has unread records and shows none, unless these cannot be older by more than
    two seconds: they were appended after the last one read there, and after the
    moment at which all was read. Nor does a record of the last two seconds wait
    for a partition that was read to its end before. One that shows nothing though
    a second was spent waiting (a transaction is open, its broker is away) is not
    waited for until it shows something. `most_records`, `most_bytes` (of keys and values) bound what
    is held: beyond that nothing waits.
    """

    def __init__(
        self, source: Source, clock: Clock, *, most_records: int = MOST_RECORDS, most_bytes: int = MOST_BYTES
    ) -> None:
        self._source = source
        self._clock = clock
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._merge = _Merge()
        self._waiting_since: float | None = None

    def partitions(self) -> list[TopicPartition]:
        """The source's."""
        return self._source.partitions()

    def starts(self) -> dict[TopicPartition, int]:
        """The source's."""
        return self._source.starts()

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets; what was held back is let go."""
        self._merge, self._waiting_since = _Merge(), None
        self._source.seek(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records`, oldest first; [] after `timeout_s` in which there was none, or none that may go."""
        merge, deadline = self._merge, time.monotonic() + timeout_s
        # Of what the source has fetched it shows one partition after the other: read on before it is needed.
        ahead = FILL_RECORDS if merge.records < AHEAD_RECORDS else 0
        self._fill(max(max_records, ahead), 0.0 if merge.held else timeout_s)
        while merge.held and not merge.may_go():
            now = time.monotonic()
            if self._waiting_since is None:
                self._waiting_since = now
            if now - self._waiting_since >= PATIENCE_S or self._is_full():
                merge.give_up()
            elif now >= deadline:
                return []
            elif self._fill(FILL_RECORDS, min(WAIT_S, deadline - now)) == FILL_RECORDS:
                # The source hands out one partition after the other: what is missing may lie behind this one.
                self._waiting_since = None
        self._waiting_since = None
        polled: list[Record] = []
        while merge.held and len(polled) < max_records and merge.may_go():
            polled.append(merge.pop())
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset to be handed out, of each partition."""
        ahead, held = self._source.positions(), self._merge.held
        return {tp: held[tp][0].offset if tp in held else at for tp, at in ahead.items()}

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """The source's."""
        return self._source.high_watermarks()

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The source's."""
        return self._source.read(ranges)

    def close(self) -> None:
        """Close the source."""
        self._source.close()

    def _fill(self, max_records: int, timeout_s: float) -> int:
        """Read on, unless enough is held; how many records came."""
        if self._is_full():
            return 0
        records = self._source.poll(max_records, timeout_s)
        self._merge.take(records, self._clock.now_ms())
        self._merge.look(self._source.positions(), self._source.high_watermarks())
        return len(records)

    def _is_full(self) -> bool:
        return self._merge.records >= self._most_records or self._merge.bytes >= self._most_bytes


class _Merge:
    """The records held, and which partitions they must wait for. Knows no clock but the time of the last `take`."""

    def __init__(self) -> None:
        self.held: dict[TopicPartition, deque[Record]] = {}
        self.records = 0
        self.bytes = 0
        self._heads: list[tuple[int, TopicPartition]] = []
        self._now = 0
        self._behind: set[TopicPartition] = set()
        self._absent: set[TopicPartition] = set()
        self._given_up: set[TopicPartition] = set()
        self._caught_up: set[TopicPartition] = set()
        # What is unread of a partition was not appended before its floor; `_limit` is the lowest one of `_absent`.
        self._floor: dict[TopicPartition, int] = {}
        self._limit = math.inf

    def take(self, records: Iterable[Record], now_ms: int) -> None:
        """Hold these, too."""
        self._now = now_ms
        for record in records:
            place = TopicPartition(record.topic, record.partition)
            queue = self.held.get(place)
            if queue is None:
                queue = self.held[place] = deque()
                heapq.heappush(self._heads, (self._time(record), place))
                self._given_up.discard(place)
            queue.append(record)
            self.records += 1
            self.bytes += _size(record)

    def look(self, positions: Positions, ends: Positions) -> None:
        """Find the partitions that have records which are not here: once a poll; `pop` keeps that up to date."""
        self._behind = {tp for tp, at in positions.items() if at < ends.get(tp, 0)}
        for tp in positions.keys() - self._behind:
            self._caught_up.add(tp)
            self._raise_floor(tp, self._now)
        self._absent = self._behind - self.held.keys() - self._given_up
        self._limit = min((self._floor.get(tp, -math.inf) for tp in self._absent), default=math.inf)

    def give_up(self) -> None:
        """Wait no longer for those that show nothing."""
        self._given_up |= self._absent
        self._absent, self._limit = set(), math.inf

    def may_go(self) -> bool:
        """Whether the oldest record held may be handed out."""
        oldest, _ = self._heads[0]
        if oldest <= self._limit + SLACK_MS:
            return True
        return oldest >= self._now - SLACK_MS and self._absent <= self._caught_up

    def pop(self) -> Record:
        """The oldest record held."""
        time_ms, place = self._heads[0]
        queue = self.held[place]
        record = queue.popleft()
        self.records -= 1
        self.bytes -= _size(record)
        if queue:
            heapq.heapreplace(self._heads, (self._time(queue[0]), place))
            return record
        heapq.heappop(self._heads)
        del self.held[place]
        self._raise_floor(place, time_ms)
        if place in self._behind:
            self._absent.add(place)
            self._limit = min(self._limit, self._floor[place])
        return record

    def _time(self, record: Record) -> int:
        """When it was appended; where a producer may set that, one from the future must not wait for the future."""
        return min(record.timestamp, self._now)

    def _raise_floor(self, place: TopicPartition, time_ms: int) -> None:
        self._floor[place] = max(time_ms, self._floor.get(place, time_ms))


def _size(record: Record) -> int:
    return len(record.key or b"") + len(record.value or b"")
