"""Events per second through real Kafka, against a bare loop that reads and writes the very same bytes.

    python tests/benchmarks/throughput.py --data DIR [--first N] [--rounds N] [--effort auto]

DIR holds events.jsonl.gz and items.jsonl.gz, see `convert.py`. All events lie in
the log before a learner starts: one process, `headrace run --stage learner`,
default settings; its items were embedded before. Then the bare loop reads the
same events, in transactions of as many as each epoch had, and publishes in each
the very lists, keys and bytes, that this epoch published. Learner and loop
follow each other in every round; the time of both is that between the first
commit and the last, by the log's own clock for the learner. Said beside it: lists
per event, the effort that the governor chose, and what the run's predictions were worth.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "kafka")]

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.structs import OffsetAndMetadata  # noqa: E402
from service import Service, write_settings  # noqa: E402

from consumers.file import read_jsonl  # noqa: E402
from pipeline.messages import FULL_EFFORT, LEAST_EFFORT  # noqa: E402
from pipeline.runtime.broker import start_broker  # noqa: E402
from pipeline.settings import Settings, load_settings  # noqa: E402
from producers.kafka_topics import create_topics  # noqa: E402

HERE = Path(__file__).parent
MOST_S = 900.0


@dataclass(frozen=True)
class Epoch:
    """What an epoch read and published: `lists` are topic, key and value; `at` when it was committed, in ms."""

    events: int
    lists: tuple[tuple[str, bytes, bytes | None], ...]
    at: int


@dataclass(frozen=True)
class Round:
    """Events per second of the learner and of the bare loop, and what the learner's were worth."""

    headrace: float
    bare: float
    lists_per_event: float
    list_bytes: float
    events_per_epoch: float
    effort: float
    ndcg: float

    @property
    def ratio(self) -> float:
        """Of the bare loop's pace."""
        return self.headrace / self.bare


class Place:
    """A namespace of one round, its folder and settings."""

    def __init__(self, bootstrap: str, folder: Path, effort: str) -> None:
        namespace = f"wire-{uuid.uuid4().hex[:8]}"
        self.folder = folder / namespace
        self.folder.mkdir()
        keys = {
            "namespace": namespace, "kafka": {"bootstrap": bootstrap}, "encoding": {"model": "hashing-384"},
            "learning": {"effort": effort}, "metrics": {"port": 0},
            "epochs": {"snapshots": str(self.folder / "snapshots")},
        }  # fmt: skip
        self.config = write_settings(self.folder / "headrace.yaml", keys)
        self.settings: Settings = load_settings(self.config, environment={})
        create_topics(bootstrap, self.settings)

    def start(self, stage: str) -> Service:
        """One stage."""
        return Service(self.config, self.folder / f"{stage}.log", "--stage", stage)


def publish(settings: Settings, data: Path, first: int) -> tuple[int, int]:
    """All items and the first events, a millisecond apart, as of now; how many of each."""
    producer = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap, linger_ms=20, batch_size=1 << 20)
    items = events = 0
    for _, line in read_jsonl(data / "items.jsonl.gz"):
        producer.send(settings.topic("items"), line, key=json.loads(line)["item_id"].encode())
        items += 1
    began = time.time_ns() // 1_000_000 - first
    for _, line in read_jsonl(data / "events.jsonl.gz"):
        if events == first:
            break
        event = json.loads(line) | {"timestamp": began + events}
        producer.send(settings.topic("events"), json.dumps(event).encode(), key=event["user_id"].encode())
        events += 1
    producer.flush()
    producer.close()
    return items, events


def reading(settings: Settings, *kinds: str) -> KafkaConsumer:
    """A consumer at the start of these topics."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap, enable_auto_commit=False, isolation_level="read_committed",
        auto_offset_reset="earliest", max_partition_fetch_bytes=4 << 20, consumer_timeout_ms=3_000,
    )  # fmt: skip
    topics = [settings.topic(kind) for kind in kinds]
    parts = [TopicPartition(topic, n) for topic in topics for n in sorted(consumer.partitions_for_topic(topic) or ())]
    consumer.assign(parts)
    return consumer


def embedded(place: Place, items: int) -> None:
    """All that has a text, by a stage of its own."""
    with place.start("embedder") as embedder:
        until(lambda: embedder.metrics().get("headrace_texts_embedded_total", 0) >= 0.9 * items)
        time.sleep(2)


def learned(place: Place, items: int, events: int) -> tuple[list[Epoch], dict[str, float]]:
    """Embed, then learn all of it in a life of its own; its epochs, the metrics in the end."""
    embedded(place, items)
    with place.start("learner") as learner:
        consumed = "headrace_events_consumed_total"
        until(lambda: learner.metrics().get(consumed, 0) >= events)
        metrics = learner.metrics()
        assert learner.stop_within(120) == 0
    return epochs_of(place.settings), metrics


def until(done: Any) -> None:
    """Wait for it."""
    end = time.monotonic() + MOST_S
    while not done():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.5)


def epochs_of(settings: Settings) -> list[Epoch]:
    """What was committed, epoch by epoch, as the log has it."""
    lists: dict[int, list[tuple[str, bytes, bytes | None]]] = defaultdict(list)
    consumer = reading(settings, "recommendations", "similar")
    for record in consumer:
        if record.value is not None:
            lists[json.loads(record.value)["epoch"]].append((record.topic, record.key, record.value))
    consumer.close(autocommit=False)
    consumer = reading(settings, "epochs")
    found = []
    for record in consumer:
        manifest = json.loads(record.value)
        if manifest["counts"]["consumed"]:
            made = tuple(lists.get(manifest["epoch"], ()))
            found.append(Epoch(manifest["counts"]["consumed"], made, record.timestamp))
    consumer.close(autocommit=False)
    return found


def transactional(bootstrap: str, name: str) -> KafkaProducer:
    """A producer with the learner's options."""
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, transactional_id=name, enable_idempotence=True, acks="all",
        linger_ms=0, retry_backoff_ms=5, compression_type="lz4", batch_size=128 << 10,
    )  # fmt: skip
    producer.init_transactions()
    return producer


def bare(settings: Settings, epochs: Sequence[Epoch]) -> float:
    """Events per second of a plain loop over the same events, lists and transactions."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    producer = transactional(settings.kafka.bootstrap, name)
    consumer = reading(settings, "events")
    parts = sorted(consumer.assignment())
    began = 0.0
    for epoch in epochs:
        read = 0
        while read < epoch.events:
            polled = consumer.poll(timeout_ms=200, max_records=epoch.events - read)
            read += sum(map(len, polled.values()))
        producer.begin_transaction()
        futures = [producer.send(topic, value, key=key) for topic, key, value in epoch.lists]
        producer.flush()
        assert all(future.succeeded() for future in futures)
        offsets = {tp: OffsetAndMetadata(consumer.position(tp), "", -1) for tp in parts}
        producer.send_offsets_to_transaction(offsets, name)
        producer.commit_transaction()
        began = began or time.perf_counter()
    seconds = time.perf_counter() - began
    consumer.close(autocommit=False)
    producer.close()
    return sum(epoch.events for epoch in epochs[1:]) / seconds


def measured(bootstrap: str, folder: Path, data: Path, first: int, effort: str) -> Round:
    """One round."""
    place = Place(bootstrap, folder, effort)
    items, events = publish(place.settings, data, first)
    epochs, metrics = learned(place, items, events)
    seconds = (epochs[-1].at - epochs[0].at) / 1000
    lists = [value for epoch in epochs for _, _, value in epoch.lists]
    of_level = 'headrace_effort_events_total{{level="{}"}}'
    levels = {n: metrics.get(of_level.format(n), 0.0) for n in range(LEAST_EFFORT, FULL_EFFORT + 1)}
    return Round(
        headrace=sum(epoch.events for epoch in epochs[1:]) / seconds,
        bare=bare(place.settings, epochs),
        lists_per_event=len(lists) / events,
        list_bytes=sum(len(value or b"") for value in lists) / max(len(lists), 1),
        events_per_epoch=events / len(epochs),
        effort=sum(level * n for level, n in levels.items()) / max(sum(levels.values()), 1),
        ndcg=metrics.get('headrace_prequential{learner="headrace",metric="ndcg",window="total"}', float("nan")),
    )


def line(name: str, rounds: Sequence[Round]) -> str:
    """Rounds as text: medians, and the spread of the ratio."""
    middle = {key: statistics.median(getattr(one, key) for one in rounds) for key in asdict(rounds[0])}
    ratios = sorted(one.ratio for one in rounds)
    return (
        f"{name}: {middle['headrace']:,.0f} events/s, the bare loop {middle['bare']:,.0f}: "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f}–{ratios[-1]:.3f}) of it; "
        f"{middle['lists_per_event']:.2f} lists "
        f"of {middle['list_bytes']:.0f} bytes per event, {middle['events_per_epoch']:.0f} events per epoch, "
        f"mean effort {middle['effort']:.1f}, nDCG@10 {middle['ndcg']:.3f}"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--first", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--effort", default="auto")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "throughput.json")
    chosen = parser.parse_args()
    rows: dict[str, list[Round]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, start_broker("kafka", announce=print) as broker:
        for _ in range(chosen.rounds):
            for data in chosen.data:
                rows[data.name].append(measured(broker.bootstrap, Path(folder), data, chosen.first, chosen.effort))
                print(line(data.name, rows[data.name][-1:]), flush=True)
    for name, rounds in rows.items():
        print(line(name, rounds))
    told = {name: [asdict(one) for one in rounds] for name, rounds in rows.items()}
    chosen.out.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
