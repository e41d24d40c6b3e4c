"""The embedder stage: items and texts of events in, vectors out.

The model is loaded at the first text, or once nothing has come for a while:
that takes seconds in which a learner beside it could hardly go on, and a
restart under load has enough to do. One loop is poll → embed → commit, where
the commit carries the vectors and the positions read in one transaction; an
exception from the sink leaves the loop, and the caller starts again from the
committed positions.

At each turn of the loop, also while nothing comes, it says that it goes on, and
before what may take long, for how long: so a hang is told from a slow model.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from types import MappingProxyType

from pipeline.messages import Output
from pipeline.ports import Positions, Sink, Stream
from pipeline.runtime.embedding import Embedding
from pipeline.runtime.lag import lag_by_topic

LAG_S = 1.0
QUIET_S = 2.0

_POLL_S = 0.2
_COMMIT_S = 1.0
# One poll's worth of texts should take about this long: it bounds latency and the reaction to a stop.
_EMBED_S = 0.4
_FIRST_POLL = 32


class Embedder(Embedding):
    """The loop. `lag` is in records by topic, of the partitions that are this embedder's; at most a second old."""

    lag: Mapping[str, int] = MappingProxyType({})
    _lag_at = -math.inf

    def run(self, source: Stream, sink: Sink, stop: threading.Event) -> None:
        """Embed until `stop` is set; `source` stands at its positions and `sink` is started.

        Raises what the source and the sink raise (`Fenced`, `CommitUnknown`, `LogGap`).
        What was embedded and not committed is forgotten: after any of these a source
        placed at the committed positions and a new sink may be given to the same embedder.
        """
        size = min(_FIRST_POLL, self._max_records)
        committed_at, uncommitted = time.monotonic(), False
        partitions, read_at = self._item_partitions(source), time.monotonic()
        while not stop.is_set():
            self._turned(0)
            records = source.poll(size, _POLL_S)
            partitions = self._after_rebalance(source, partitions)
            self._look_at_lag(source)
            began = time.monotonic()
            if records:
                read_at = began
            elif partitions and began - read_at > QUIET_S:
                self.prepare()
            outputs = self.embed(records)
            size = self._next_size(size, len(records), time.monotonic() - began)
            uncommitted = uncommitted or bool(records)
            # Events without text need no transaction each: positions wait for a vector, a pause or a second.
            due = not records or time.monotonic() - committed_at > _COMMIT_S
            if outputs or (uncommitted and due):
                self._commit(sink, outputs, source.positions())
                committed_at, uncommitted = time.monotonic(), False
        if uncommitted:
            sink.commit([], None, source.positions())

    def _commit(self, sink: Sink, outputs: list[Output], positions: Positions) -> None:
        try:
            sink.commit(outputs, None, positions)
        except Exception:
            # It may be committed: then these vectors are the newest, and what was known of the items is not.
            for output in outputs:
                if output.topic == self._vectors:
                    self._standing.doubt((output.key or b"").decode())
            raise
        self.committed(outputs)

    def _after_rebalance(self, source: Stream, before: set[int]) -> set[int]:
        """The partitions held now. Of those gained another embedder may have written newer vectors."""
        now = self._item_partitions(source)
        if gained := now - before:
            self._standing.drop_partitions(gained)
        return now

    def _look_at_lag(self, source: Stream) -> None:
        """Now and then. Before embedding, which may take long: what waits meanwhile is to be seen."""
        if (now := time.monotonic()) - self._lag_at >= LAG_S:
            self._lag_at = now
            self.lag = lag_by_topic(source.high_watermarks(), source.positions())

    def _item_partitions(self, source: Stream) -> set[int]:
        return {place.partition for place in source.positions() if place.topic == self._items}

    def _next_size(self, size: int, polled: int, seconds: float) -> int:
        if seconds > _EMBED_S:
            return max(1, size // 2)
        if polled == size and seconds < _EMBED_S / 2:
            return min(self._max_records, size * 2)
        return size
