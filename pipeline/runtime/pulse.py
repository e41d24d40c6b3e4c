"""How it goes, once a second, for the page: read from the metrics, the last minutes kept."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from pipeline.runtime.runner import Health

EVERY_S = 1.0
KEPT = 300
OVER_S = 10
"""Rates and latencies are those of the last so many points."""

Sample = tuple[str, tuple[tuple[str, str], ...]]


def sampled(registry: CollectorRegistry) -> dict[Sample, float]:
    """Every sample of a registry by name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def quantile(share: float, buckets: Sequence[tuple[float, float]]) -> float | None:
    """Of a histogram's (upper bound, cumulative count), linear within a bucket; None where nothing was counted.

    As Prometheus' histogram_quantile has it: what lies beyond the last bound is at it.

    >>> quantile(0.5, [(0.1, 2), (0.2, 6), (float("inf"), 6)]), quantile(0.5, [(0.1, 0)])
    (0.125, None)
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank, below, bound = share * buckets[-1][1], 0.0, 0.0
    for upper, count in buckets:
        if count >= rank:
            if math.isinf(upper):
                return bound
            return bound + (upper - bound) * (rank - below) / max(count - below, 1e-12)
        below, bound = count, upper
    return bound


class Pulse:
    """Takes a point every second from a thread, from `start` to `close`."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._registry = registry
        self._health = health
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse")
        self._raw: deque[tuple[float, dict[Sample, float]]] = deque(maxlen=OVER_S + 1)
        self.points: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def start(self) -> None:
        """From now on."""
        self.take()
        self._thread.start()

    def close(self) -> None:
        """No more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def take(self) -> dict[str, Any]:
        """One more point."""
        now, found = time.time(), sampled(self._registry)
        self._raw.append((now, found))
        before_at, before = self._raw[0]
        point = {"time": now, "ready": self._health.ready.is_set(), **_totals(found)}
        point |= _rates(found, before, max(now - before_at, EVERY_S))
        self.points.append(point)
        return point

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.take()


def _totals(found: Mapping[Sample, float]) -> dict[str, Any]:
    quality: dict[str, dict[str, float | None]] = {}
    for (name, labels), value in found.items():
        told = dict(labels)
        if name == "headrace_prequential" and told["window"] == "rolling":
            quality.setdefault(told["learner"], {})[told["metric"]] = None if math.isnan(value) else value
    return {
        "epoch": int(_one(found, "headrace_epoch")),
        "effort": int(_one(found, "headrace_effort")),
        "lag": int(_sum(found, "headrace_lag_records")),
        "users": int(_one(found, "headrace_state_rows", ("of", "users"))),
        "items": int(_one(found, "headrace_state_rows", ("of", "items"))),
        "predictions": int(_one(found, "headrace_predictions")),
        "drifts": int(_one(found, "headrace_drifts_total")),
        "lists": int(_one(found, "headrace_lists_total")),
        "dead_letters": int(_sum(found, "headrace_dead_letters_total")),
        "quality": quality,
        "weights": {
            dict(labels)["column"]: value for (name, labels), value in found.items() if name == "headrace_scorer_weight"
        },
    }


def _rates(found: Mapping[Sample, float], before: Mapping[Sample, float], seconds: float) -> dict[str, float | None]:
    def since(sample: Sample) -> float:
        return found[sample] - before.get(sample, 0.0)

    buckets = sorted(
        (float(dict(labels)["le"]), since((name, labels)))
        for name, labels in found
        if name == "headrace_event_to_list_seconds_bucket"
    )
    consumed = _one(found, "headrace_events_consumed_total") - _one(before, "headrace_events_consumed_total")
    median, slowest = quantile(0.5, buckets), quantile(0.99, buckets)
    return {
        "events_per_second": max(consumed, 0.0) / seconds,
        "latency_p50_ms": None if median is None else 1000 * median,
        "latency_p99_ms": None if slowest is None else 1000 * slowest,
    }


def _one(found: Mapping[Sample, float], name: str, *labels: tuple[str, str]) -> float:
    return found.get((name, labels), 0.0)


def _sum(found: Mapping[Sample, float], wanted: str) -> float:
    return sum(value for (name, _), value in found.items() if name == wanted)
