"""What exactly-once costs: a bare consume-and-produce loop and Headrace, with and without transactions, in one run.

    python tests/benchmarks/transactions.py [--rounds N] [--bare N] [--events N]

Each variant reads the same events from a real broker, epoch by epoch of the
same size, and publishes lists of about the same bytes: the bare loop one of 620
bytes for each event, Headrace its own. Without transactions records are sent by
an idempotent producer and waited for, and positions are committed for the group
after each epoch: at least once, no fencing. The variants of a size follow one
another in every round, in turn; shown are medians, and the spread of the ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
from prometheus_client import CollectorRegistry

from consumers.aligned import AlignedSource
from consumers.kafka import KafkaSource
from pipeline.epochs.recovery import Identity
from pipeline.epochs.snapshot import MemorySnapshotStore
from pipeline.messages import Manifest, Output
from pipeline.ports import Positions
from pipeline.runtime.broker import start_broker
from pipeline.runtime.composition import LEARNER_INPUTS, SystemClock, device_of, fix_threads, new_processor
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.runtime.runner import Health, Parts, Runner
from pipeline.settings import Settings
from producers.kafka import KafkaSink
from producers.kafka_topics import create_topics

HERE = Path(__file__).parent
LIST_BYTES = 620
SIZES = (200, 1000, 5000)
USERS, ITEMS = 2000, 1000


class PlainSink(KafkaSink):
    """The same producer without transactions: nothing fences it, and a crash doubles what it published."""

    def start(self) -> None:
        options = self._producer_options()
        del options["transactional_id"], options["transaction_timeout_ms"]
        self._producer = KafkaProducer(**options)
        self._positions = KafkaConsumer(
            bootstrap_servers=self._bootstrap, group_id=self._group, enable_auto_commit=False, metrics_enabled=False
        )

    def commit(self, outputs: Sequence[Output], manifest: Manifest | None, positions: Positions) -> int:
        producer, at = self._started(), -1
        futures = [self._send(producer, output) for output in outputs]
        if manifest is not None:
            futures.append(self._send_manifest(producer, manifest))
        producer.flush()
        for future in futures:
            at = int(future.get(timeout=0).offset)
        if positions:
            self._positions.commit(
                {TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(o, "", -1) for tp, o in positions.items()}
            )
        return at

    def close(self) -> None:
        if self._producer is not None:
            self._positions.close(autocommit=False)
        super().close()


class Enough(threading.Event):
    """Set once the learner's log has so many events more than at the first look."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self._wanted = wanted
        self.runner: Runner | None = None
        self.began = 0.0
        self.ended = 0.0
        self.epochs = 0
        self._first = 0

    def is_set(self) -> bool:
        assert self.runner is not None
        read = sum(at for tp, at in self.runner.standing.positions.items() if tp.topic.endswith(".events.v1"))
        if not self.began and read:
            self.began, self._first, self.epochs = time.perf_counter(), read, -self.runner.standing.epoch
        if self.began and not self.ended and read - self._first >= self._wanted:
            self.ended = time.perf_counter()
            self.epochs += self.runner.standing.epoch
            self.events = read - self._first
        return bool(self.ended)


def fill(bootstrap: str, settings: Settings, events: int) -> None:
    """Items, and events of users drawn evenly."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=20, batch_size=1 << 20)
    now = time.time_ns() // 1_000_000
    for item in range(ITEMS):
        value = {"item_id": f"i{item}", "title": f"Thing number {item}", "categories": [f"c{item % 20}"]}
        producer.send(settings.topic("items"), json.dumps(value).encode(), key=b"i%d" % item)
    producer.flush()
    for number in range(events):
        user = f"u{number * 7919 % USERS}"
        event = {
            "event_type": "click", "user_id": user, "item_id": f"i{number * 104_729 % ITEMS}", "timestamp": now,
            "event_id": f"e{number}", "session_id": f"s{number // 9}", "context": {"device": "phone", "country": "CH"},
        }  # fmt: skip
        producer.send(settings.topic("events"), json.dumps(event).encode(), key=user.encode())
    producer.flush()
    producer.close()


def bare(bootstrap: str, settings: Settings, size: int, events: int, transactions: bool) -> tuple[float, int]:
    """Seconds and epochs of a plain loop over so many events."""
    name, topic = f"bare-{uuid.uuid4().hex[:8]}", settings.topic("recommendations")
    options: dict[str, Any] = {"bootstrap_servers": bootstrap, "linger_ms": 0, "acks": "all", "retry_backoff_ms": 5}
    options |= {"compression_type": "lz4", "batch_size": 128 << 10, "enable_idempotence": True}
    producer = KafkaProducer(**options, **({"transactional_id": name} if transactions else {}))
    if transactions:
        producer.init_transactions()
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, group_id=name, enable_auto_commit=False, isolation_level="read_committed",
        auto_offset_reset="earliest", max_partition_fetch_bytes=4 << 20,
    )  # fmt: skip
    parts = [TopicPartition(settings.topic("events"), n) for n in range(settings.kafka.partitions)]
    consumer.assign(parts)
    done = epochs = 0
    began = 0.0
    while done < events:
        batch: list[Any] = []
        while len(batch) < size:
            for records in consumer.poll(timeout_ms=200, max_records=size - len(batch)).values():
                batch += records
        if not began:
            began = time.perf_counter()
            continue
        if transactions:
            producer.begin_transaction()
        futures = [producer.send(topic, b"x" * LIST_BYTES, key=record.key) for record in batch]
        producer.flush()
        assert all(future.succeeded() for future in futures)
        offsets = {tp: OffsetAndMetadata(consumer.position(tp), "", -1) for tp in parts}
        if transactions:
            producer.send_offsets_to_transaction(offsets, name)
            producer.commit_transaction()
        else:
            consumer.commit(offsets)
        done, epochs = done + len(batch), epochs + 1
    seconds = time.perf_counter() - began
    consumer.close(autocommit=False)
    producer.close()
    return seconds / done, epochs


def headrace(bootstrap: str, settings: Settings, events: int, transactions: bool) -> tuple[float, float]:
    """Seconds per event and events per epoch of the real runner, from its second epoch on."""
    run = settings.model_copy(update={"instance": uuid.uuid4().hex[:8]})
    device = device_of("cpu")
    threads = fix_threads(run, device)
    clock = SystemClock()
    name = f"{run.namespace}.learner.{run.instance}"
    kind = KafkaSink if transactions else PlainSink
    stop = Enough(events)
    runner = Runner(
        Parts(
            settings=run,
            make_source=lambda: AlignedSource(
                KafkaSource(bootstrap, [run.topic(kind) for kind in LEARNER_INPUTS]), clock
            ),
            make_sink=lambda: kind(bootstrap, name, run.topic("epochs"), 0, name),
            make_processor=lambda: new_processor(run, device),
            snapshots=MemorySnapshotStore(),
            who=Identity(run.instance, f"threads-{threads}"),
            clock=clock,
            metrics=LearnerMetrics(CollectorRegistry()),
            health=Health(),
        )
    )
    stop.runner = runner
    # One partition of one epochs topic for all: each run begins after the manifests of those before it.
    runner.run(stop)
    return (stop.ended - stop.began) / stop.events, stop.events / stop.epochs


def settings_of(bootstrap: str, size: int | None, effort: str) -> Settings:
    """Everything but the size of an epoch and the effort as it is by default."""
    epochs = {} if size is None else {"max_events": size, "linger_ms": 200}
    return Settings(
        namespace=f"cost-{uuid.uuid4().hex[:8]}",
        kafka={"bootstrap": bootstrap},
        learning={"effort": effort},
        epochs={**epochs, "snapshot_interval_s": 1e9},
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", type=int, default=20_000, help="events of a bare run")
    parser.add_argument("--events", type=int, default=10_000, help="events of a run of Headrace")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "transactions.json")
    chosen = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, start_broker("kafka", Path(folder), announce=print) as broker:
        for size in SIZES:
            settings = settings_of(broker.bootstrap, size, "lean")
            create_topics(broker.bootstrap, settings)
            fill(broker.bootstrap, settings, chosen.bare + 2 * size)
            pairs = []
            for _ in range(chosen.rounds):
                (without, _), (within, _) = (
                    bare(broker.bootstrap, settings, size, chosen.bare, t) for t in (False, True)
                )
                pairs.append((without, within))
            rows.append(row("bare loop", size, pairs, size))
            print(line(rows[-1]), flush=True)
        for size, effort in (*((size, "lean") for size in SIZES), (None, "lean"), (None, "full")):
            pairs, per_epoch = [], []
            for _ in range(chosen.rounds):
                found = []
                for transactions in (False, True):
                    settings = settings_of(broker.bootstrap, size, effort)
                    create_topics(broker.bootstrap, settings)
                    events = chosen.events // 4 if effort == "full" else chosen.events
                    fill(broker.bootstrap, settings, events + 3 * (size or 256))
                    seconds, events_per_epoch = headrace(broker.bootstrap, settings, events, transactions)
                    found.append(seconds)
                    per_epoch.append(events_per_epoch)
                pairs.append((found[0], found[1]))
            name = f"headrace, {effort}" + (" (its own pace)" if size is None else "")
            rows.append(row(name, size, pairs, statistics.median(per_epoch)))
            print(line(rows[-1]), flush=True)
    chosen.out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return 0


def row(name: str, size: int | None, pairs: list[tuple[float, float]], per_epoch: float) -> dict[str, Any]:
    """Medians of seconds per event without and with transactions, their ratio in each round, added ms per epoch."""
    without, within = (statistics.median(pair[n] for pair in pairs) for n in (0, 1))
    return {
        "name": name, "size": size, "events_per_epoch": per_epoch, "without": 1 / without, "with": 1 / within,
        "speed_ratios": [pair[0] / pair[1] for pair in pairs],
        "added_ms_per_epoch": statistics.median((pair[1] - pair[0]) * per_epoch * 1000 for pair in pairs),
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    ratios = sorted(row["speed_ratios"])
    return (
        f"{row['name']}, {row['events_per_epoch']:.0f} events per epoch: {row['without']:,.0f} events/s without, "
        f"{row['with']:,.0f} with: {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}) of it, "
        f"{row['added_ms_per_epoch']:.0f} ms more per epoch"
    )


if __name__ == "__main__":
    sys.exit(main())
