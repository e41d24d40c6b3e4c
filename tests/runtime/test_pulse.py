"""The numbers of the page: what the metrics say, over the last seconds."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry

from pipeline.runtime import pulse
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.runtime.pulse import KEPT, Pulse
from pipeline.runtime.runner import Health


class Watch:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def time(self) -> float:
        return self.at


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    made = Watch()
    monkeypatch.setattr(pulse, "time", made)
    return made


def test_rates_and_latencies_are_those_of_the_last_ten_seconds(watch: Watch) -> None:
    registry, health = CollectorRegistry(), Health()
    metrics, beat = LearnerMetrics(registry), Pulse(registry, health)
    first = beat.take()
    assert (first["events_per_second"], first["latency_p50_ms"], first["ready"]) == (0, None, False)
    health.ready.set()
    for _ in range(10):
        watch.at += 1
        metrics.consumed.inc(30)
        for _ in range(30):
            metrics.latency.observe([0.15])
        last = beat.take()
    assert last["ready"]
    assert math.isclose(last["events_per_second"], 30)
    assert 100 < last["latency_p50_ms"] < 200
    for _ in range(11):
        watch.at += 1
        last = beat.take()
    assert (last["events_per_second"], last["latency_p50_ms"]) == (0, None)


def test_quality_weights_and_totals_are_the_metrics(watch: Watch) -> None:
    registry = CollectorRegistry()
    metrics = LearnerMetrics(registry)
    for learner, value in (("headrace", 0.2), ("item-item", float("nan"))):
        metrics.quality.labels(learner, "ndcg", "rolling").set(value)
        metrics.quality.labels(learner, "ndcg", "total").set(0.5)
    metrics.weight.labels("together").set(0.7)
    metrics.lag.labels("a").set(3)
    metrics.lag.labels("b").set(4)
    metrics.rows.labels("users").set(12)
    metrics.dead.labels("a").inc(2)
    point = Pulse(registry, Health()).take()
    assert point["quality"] == {"headrace": {"ndcg": 0.2}, "item-item": {"ndcg": None}}
    assert point["weights"] == {"together": 0.7}
    assert (point["lag"], point["users"], point["dead_letters"]) == (7, 12, 2)


def test_the_last_minutes_are_kept_and_no_more(watch: Watch) -> None:
    beat = Pulse(CollectorRegistry(), Health())
    for _ in range(KEPT + 20):
        watch.at += 1
        beat.take()
    assert len(beat.points) == KEPT
    assert beat.points[-1]["time"] == watch.at
