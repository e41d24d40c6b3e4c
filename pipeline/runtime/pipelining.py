"""The commit of an epoch beside the loop: by one thread, one by one, none before the last is known to be good."""

from __future__ import annotations

import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from pipeline.epochs.history import Standing
from pipeline.epochs.processor import Applied
from pipeline.messages import Manifest, Record
from pipeline.ports import Clock, Positions, Sink
from pipeline.runtime.desk import Desk
from pipeline.runtime.governor import Governor
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.runtime.spans import Spans


def one_thread() -> Executor:
    """Begins when it is first asked for something."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")


@dataclass(frozen=True)
class Learned:
    """An epoch after its step: all that is to be told of it once it is committed.

    `standing` is where it leads, the manifest's offset not known before the
    commit; `rows` are those of the state after it; `began` (of a steady clock)
    is when its records were there, `stepped` how many seconds the step took.
    """

    records: list[Record]
    events: int
    effort: int
    applied: Applied
    standing: Standing
    rows: dict[str, int]
    began: float
    stepped: float


@dataclass(frozen=True)
class _Good:
    """Of a commit: the manifest's offset, and when it was known to be good, by a steady clock and in Unix ms."""

    offset: int
    at: float
    now_ms: int


class Commits:
    """At most one commit under way; whatever hears of committed epochs hears of it when that is known. Not thread-safe.

    So a commit is begun, then `known`, before the next is begun.
    """

    def __init__(
        self, executor: Executor, metrics: LearnerMetrics, spans: Spans, desk: Desk, clock: Clock, governor: Governor,
        events_topic: str,
    ) -> None:  # fmt: skip
        self._executor = executor
        self._metrics = metrics
        self._spans = spans
        self._desk = desk
        self._clock = clock
        self._governor = governor
        self._topic = events_topic
        self._underway: tuple[Learned, Future[_Good]] | None = None
        self._last_at = 0.0

    @property
    def underway(self) -> Learned | None:
        """Of which epoch it is not known yet whether it is committed."""
        return None if self._underway is None else self._underway[0]

    @property
    def answered(self) -> bool:
        """Whether `known` would not wait for the commit under way."""
        return self._underway is not None and self._underway[1].done()

    def begin(self, sink: Sink, learned: Learned, manifest: Manifest, positions: Positions) -> None:
        """Commit an epoch beside the caller."""
        self._underway = learned, self._executor.submit(self._commit, sink, learned, manifest, positions)

    def known(self) -> Learned | None:
        """Wait for the commit under way and tell of its epoch, which now stands; None if none is.

        Raises what the commit did: then nothing is told, and it is under way no more.
        """
        if self._underway is None:
            return None
        (learned, commit), self._underway = self._underway, None
        good = commit.result()
        learned = replace(learned, standing=replace(learned.standing, offset=good.offset))
        self._tell(learned, good)
        return learned

    def close(self) -> None:
        """Wait for the commit under way, whatever comes of it."""
        self._executor.shutdown()

    def _commit(self, sink: Sink, learned: Learned, manifest: Manifest, positions: Positions) -> _Good:
        with self._metrics.stage.labels("commit").time(), self._spans.stage(manifest.epoch, "commit"):
            offset = sink.commit(learned.applied.outputs, manifest, positions)
        return _Good(offset, time.monotonic(), self._clock.now_ms())

    def _tell(self, learned: Learned, good: _Good) -> None:
        epoch, applied = learned.standing.epoch, learned.applied
        self._desk.committed(epoch, applied)
        self._spans.end(epoch, applied.counts.lists)
        # What it shares with the commit before it was that one's.
        seconds = good.at - max(learned.began, self._last_at)
        self._last_at = good.at
        self._governor.learned(learned.effort, learned.events, seconds)
        self._metrics.epoch_committed(epoch, applied, learned.rows)
        self._metrics.effort_spent(learned.effort, learned.events, seconds)
        self._metrics.latencies(learned.records, self._topic, good.now_ms)
