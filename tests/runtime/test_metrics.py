"""What alerts rely on: counters that begin at 0, a loss of count that stays told, and what is free on the disk."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from pipeline.epochs.processor import Applied, Processor
from pipeline.messages import Counts
from pipeline.runtime.composition import new_processor
from pipeline.runtime.metrics import LATENCY_BUCKETS, Latencies, LearnerMetrics
from pipeline.settings import Settings


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def processor() -> Processor:
    return new_processor(Settings(learning={"width": 8}), torch.device("cpu"))


def test_what_is_free_is_what_the_disk_says(registry: CollectorRegistry, tmp_path: Path) -> None:
    LearnerMetrics(registry, snapshots=tmp_path)
    said = registry.get_sample_value("headrace_snapshot_disk_free_bytes")
    assert said == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_a_folder_that_is_gone_leaves_the_other_metrics_alone(registry: CollectorRegistry, tmp_path: Path) -> None:
    LearnerMetrics(registry, snapshots=tmp_path / "gone")
    assert math.isnan(registry.get_sample_value("headrace_snapshot_disk_free_bytes") or 0.0)
    assert registry.get_sample_value("headrace_events_consumed_total") == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("headrace_dead_letters_total", {"topic": "shop.items.v1"}),
        ("headrace_effort_events_total", {"level": "0"}),
        ("headrace_effort_seconds_total", {"level": "4"}),
        ("headrace_epochs_total", {"result": "aborted"}),
        ("headrace_events_total", {"outcome": "dead_lettered"}),
    ],
)
def test_what_has_not_happened_is_0(registry: CollectorRegistry, name: str, labels: dict[str, str]) -> None:
    LearnerMetrics(registry, topics=["shop.events.v1", "shop.items.v1"])
    assert registry.get_sample_value(name, labels) == 0


def test_an_epoch_that_lost_count_is_told_for_good(registry: CollectorRegistry, processor: Processor) -> None:
    metrics = LearnerMetrics(registry)
    right = Applied([], Counts(consumed=2, trained=2), 0, "")
    metrics.epoch_committed(1, right, metrics.rows_of(processor))
    assert registry.get_sample_value("headrace_events_conserved") == 1
    metrics.epoch_committed(2, replace(right, counts=Counts(consumed=2, trained=1)), metrics.rows_of(processor))
    metrics.epoch_committed(3, right, metrics.rows_of(processor))
    assert registry.get_sample_value("headrace_events_conserved") == 0


def test_drifts_that_the_state_brings_along_are_not_counted_again(
    registry: CollectorRegistry, processor: Processor
) -> None:
    brought = processor.learner.drift.state()
    brought["drift.progress"] = torch.tensor([5, 0])
    processor.learner.drift.load(brought)
    metrics = LearnerMetrics(registry)
    metrics.recovered(7, processor)
    metrics.prequential(processor)
    assert registry.get_sample_value("headrace_epoch") == 7
    assert registry.get_sample_value("headrace_drifts_total") == 0
    brought["drift.progress"] = torch.tensor([6, 0])
    processor.learner.drift.load(brought)
    metrics.prequential(processor)
    assert registry.get_sample_value("headrace_drifts_total") == 1


@given(st.lists(st.lists(st.sampled_from([0.0, 0.005, 0.0051, 0.7, 1.0, 60.0, 1e9]) | st.floats(0, 100)), max_size=5))
def test_seconds_noted_together_are_shown_as_a_histogram_shows_them(parts: list[list[float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    together = Latencies("seconds", "How long", LATENCY_BUCKETS, ours)
    one_by_one = Histogram("seconds", "How long", buckets=LATENCY_BUCKETS, registry=theirs)
    for part in parts:
        together.observe(part)
        for each in part:
            one_by_one.observe(each)
    shown, expected = (
        {
            line.split(" ")[0]: float(line.split(" ")[1])
            for line in generate_latest(registry).decode().splitlines()
            if not line.startswith("#") and "_created" not in line
        }
        for registry in (ours, theirs)
    )
    assert shown == pytest.approx(expected)
