"""What Headrace shows of itself to Prometheus: `headrace_*`, base units, no user or item in a label."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from pipeline.epochs.history import Past
from pipeline.epochs.processor import Applied, Processor
from pipeline.messages import FULL_EFFORT, LEAST_EFFORT, Record, TopicPartition
from pipeline.runtime.embedder import Embedder
from pipeline.runtime.lag import lag_by_topic

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
OUTCOMES = ("trained", "duplicate", "late", "erased", "dead_lettered", "skipped")


EMBEDDER_COUNTERS = (
    ("headrace_texts_embedded", "Texts that went through the encoder", "texts_embedded"),
    ("headrace_embedding_cache_hits", "Texts answered from the cache", "cache_hits"),
    ("headrace_embedder_dead_letters", "Records that could not be embedded", "dead_lettered"),
)


PAST_COUNTERS = (
    ("headrace_gaps_accepted", "Times that a start went on without what the log had lost, ever", "gaps"),
    ("headrace_gap_records", "Records lost in those gaps, ever", "lost"),
    ("headrace_rewinds", "Rewinds, ever", "rewinds"),
    ("headrace_rewind_events", "Events left out by rewinds, ever", "left_out"),
)


class PastMetrics(Collector):
    """What the log says of its own past: counted from its manifests, not from this process's start."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._past = Past()
        registry.register(self)

    def tell(self, past: Past) -> None:
        """From now on this is the past."""
        self._past = past

    def collect(self) -> Iterator[CounterMetricFamily]:
        """The counters."""
        for name, text, attribute in PAST_COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(self._past, attribute))


def free_bytes(folder: Path | None) -> float:
    """What this process may still write where the folder lies; NaN where there is none, or nobody can tell."""
    try:
        return math.nan if folder is None else shutil.disk_usage(folder).free
    except OSError:
        return math.nan


class Latencies(Collector):
    """A histogram that takes many seconds at once: one by one those of an epoch take as long as their decoding."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        """`bounds` are the buckets' upper ones, ascending, but for the last, which has none."""
        self._name, self._text = name, text
        self._bounds = np.array(bounds)
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, seconds: ArrayLike) -> None:
        """Note them all."""
        bucket_N = np.searchsorted(self._bounds, seconds)
        with self._lock:
            self._counts += np.bincount(bucket_N, minlength=len(self._counts))
            self._sum += float(np.sum(seconds))

    def collect(self) -> Iterator[Metric]:
        """The histogram as it is now."""
        with self._lock:
            reached, total = self._counts.cumsum().tolist(), self._sum
        names = map(floatToGoString, (*self._bounds.tolist(), math.inf))
        yield HistogramMetricFamily(self._name, self._text, [*zip(names, reached, strict=True)], total)


class LearnerMetrics:
    """The learner's metrics in a registry of its own."""

    def __init__(self, registry: CollectorRegistry, topics: Iterable[str] = (), snapshots: Path | None = None) -> None:
        """Dead letters of `topics` count from 0; what is free where `snapshots` lie is asked for at every scrape."""
        self.registry = registry
        self.consumed = Counter("headrace_events_consumed", "Event records read", registry=registry)
        self.events = Counter("headrace_events", "Event records by outcome", ["outcome"], registry=registry)
        self.lists = Counter("headrace_lists", "Lists published", registry=registry)
        self.dead = Counter("headrace_dead_letters", "Records that could not be used", ["topic"], registry=registry)
        self.epochs = Counter("headrace_epochs", "Epochs", ["result"], registry=registry)
        self.stage = Histogram(
            "headrace_stage_seconds", "Time per epoch and stage", ["stage"], buckets=LATENCY_BUCKETS, registry=registry
        )
        self.latency = Latencies(
            "headrace_event_to_list_seconds", "From an event's append to the commit of its list", LATENCY_BUCKETS,
            registry,
        )  # fmt: skip
        self.lag = Gauge("headrace_lag_records", "Records not yet read, by topic", ["topic"], registry=registry)
        self.quality = Gauge(
            "headrace_prequential", "Prequential metric at 10", ["learner", "metric", "window"], registry=registry
        )
        self.predictions = Gauge("headrace_predictions", "Predictions scored", registry=registry)
        self.loss = Gauge("headrace_loss", "Last training loss", ["model"], registry=registry)
        self.weight = Gauge("headrace_scorer_weight", "Mean weight of a scorer's column", ["column"], registry=registry)
        told = "Learned per event, -2 (scant), 0 (lean) to 4 (full), last epoch"
        self.effort = Gauge("headrace_effort", told, registry=registry)
        self.effort_seconds = Counter(
            "headrace_effort_seconds", "Time from poll to commit of epochs with events, none of it twice", ["level"],
            registry=registry,
        )
        self.effort_events = Counter("headrace_effort_events", "Event records", ["level"], registry=registry)
        self.step_failures = Counter("headrace_step_failures", "Attempts at an epoch in vain", registry=registry)
        self.epoch = Gauge("headrace_epoch", "Last committed epoch", registry=registry)
        self.watermark = Gauge("headrace_watermark_seconds", "Event time reached, Unix seconds", registry=registry)
        self.rows = Gauge("headrace_state_rows", "Rows of state", ["of"], registry=registry)
        self.state_bytes = Gauge("headrace_state_bytes", "Bytes of state, at the last snapshot", registry=registry)
        self.drifts = Counter("headrace_drifts", "Drifts seen in the prequential error", registry=registry)
        self._drifts = 0
        self.snapshot_bytes = Gauge("headrace_snapshot_bytes", "Size of the last snapshot", registry=registry)
        self.snapshot_seconds = Gauge("headrace_snapshot_seconds", "Time the last snapshot took", registry=registry)
        self.snapshot_time = Gauge(
            "headrace_snapshot_timestamp_seconds", "When the last snapshot was complete", registry=registry
        )
        self.snapshot_disk_free = Gauge(
            "headrace_snapshot_disk_free_bytes", "Free on the disk of the snapshots", registry=registry
        )
        self.snapshot_disk_free.set_function(lambda: free_bytes(snapshots))
        self.snapshot_errors = Counter("headrace_snapshot_errors", "Snapshots that failed", registry=registry)
        self.conserved = Gauge("headrace_events_conserved", "1 while every event has one outcome", registry=registry)
        self.conserved.set(1)
        self.past = PastMetrics(registry)
        self._start_at_zero(topics)

    def _start_at_zero(self, topics: Iterable[str]) -> None:
        """Make the counters whose labels are known: of one that begins at 1 Prometheus sees no increase."""
        for outcome in OUTCOMES:
            self.events.labels(outcome)
        for result in ("committed", "aborted", "replayed"):
            self.epochs.labels(result)
        for topic in topics:
            self.dead.labels(topic)
        for level in map(str, range(LEAST_EFFORT, FULL_EFFORT + 1)):
            self.effort_seconds.labels(level)
            self.effort_events.labels(level)

    def recovered(self, epoch: int, processor: Processor) -> None:
        """A start is over. The drifts that its state brings along were counted by the process that saw them."""
        self.epoch.set(epoch)
        self._drifts = processor.learner.drift.detected

    def rows_of(self, processor: Processor) -> dict[str, int]:
        """How many rows its state has now, for `epoch_committed`."""
        users, catalogue = processor.learner.users, processor.learner.catalogue
        return {"users": users.ids.used, "users_paged_out": users.paging.cold, "items": catalogue.ids.used}

    def epoch_committed(self, epoch: int, applied: Applied, rows: Mapping[str, int]) -> None:
        """Count a committed epoch, after which the state had these `rows`."""
        counts = applied.counts
        self.consumed.inc(counts.consumed)
        for outcome in OUTCOMES:
            self.events.labels(outcome).inc(getattr(counts, outcome))
        if not counts.conserved:
            # For good: a later epoch that is right must not hide it from the next scrape.
            self.conserved.set(0)
        self.lists.inc(counts.lists)
        for letter in applied.dead_letters:
            self.dead.labels(letter.record.topic).inc()
        self.epochs.labels("committed").inc()
        self.epoch.set(epoch)
        self.watermark.set(max(applied.watermark, 0) / 1000)
        if applied.losses:
            self.loss.labels("interest").set(applied.losses[-1][0])
            self.loss.labels("weights").set(applied.losses[-1][1])
        for name, count in rows.items():
            self.rows.labels(name).set(count)

    def effort_spent(self, level: int, events: int, seconds: float) -> None:
        """Note at which effort an epoch went, and how long its events took."""
        self.effort.set(level)
        if events:
            self.effort_seconds.labels(str(level)).inc(seconds)
            self.effort_events.labels(str(level)).inc(events)

    def latencies(self, records: list[Record], events_topic: str, now_ms: int) -> None:
        """Note how long ago the events of a committed epoch were appended."""
        at = [record.timestamp for record in records if record.topic == events_topic]
        self.latency.observe(np.maximum(now_ms - np.array(at, np.int64), 0) / 1000)

    def lags(self, ends: Mapping[TopicPartition, int], positions: Mapping[TopicPartition, int]) -> None:
        """Records between positions and high watermarks, per topic."""
        for topic, records in lag_by_topic(ends, positions).items():
            self.lag.labels(topic).set(records)

    def prequential(self, processor: Processor) -> None:
        """Quality of the learner and its peers, and the weights: refreshed now and then, not per epoch."""
        board = processor.prequential
        size = len(processor.learner.catalogue)
        self.predictions.set(board.tallies[board.names[0]].n)
        for name in board.names:
            total = board.tallies[name].report(size)
            for metric in ("hr", "ndcg"):
                value = total[metric]
                self.quality.labels(name, metric, "total").set(float("nan") if value is None else value)
                self.quality.labels(name, metric, "rolling").set(board.rolling[name, metric].mean())
        weights = processor.learner.weights.trainer.served["base_K"].cpu()
        columns = processor.learner.columns
        for column, by_score, by_rank in zip(columns, weights[: len(columns)], weights[len(columns) :], strict=True):
            self.weight.labels(column.name).set(float(by_score + by_rank))
        drifts = processor.learner.drift.detected
        self.drifts.inc(max(drifts - self._drifts, 0))
        self._drifts = drifts


class EmbedderMetrics(Collector):
    """The embedder's counters and its lag, read from it whenever somebody asks; 0 and no lag until there is one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._embedder: Embedder | None = None
        registry.register(self)

    def watch(self, embedder: Embedder) -> None:
        """From now on read this embedder's."""
        self._embedder = embedder

    def collect(self) -> Iterator[Metric]:
        """The counters as they are now, and the lag as it was a moment ago."""
        for name, text, attribute in EMBEDDER_COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(self._embedder, attribute, 0))
        lag = GaugeMetricFamily(
            "headrace_embedder_lag_records", "Records the embedder has not yet read, by topic", labels=["topic"]
        )
        for topic, records in ({} if self._embedder is None else self._embedder.lag).items():
            lag.add_metric([topic], records)
        yield lag
