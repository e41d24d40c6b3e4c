"""Memory of learner and embedder in front of a backlog: so many records wait on real Kafka when they start.

    python tests/benchmarks/backlog.py --records 1000000

Publishes, then starts each stage in a process of its own, first over an empty
namespace and then over the backlog, and watches resident memory for so many
seconds. One record in a hundred is an item, the others are events of as many users as
there are items; every hundredth event carries 100 kB, to fill buffers that count records.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psutil
from kafka import KafkaProducer

sys.path.insert(0, str(Path(__file__).parents[1] / "kafka"))
from service import Service, small_settings, write_settings

from pipeline.runtime.broker import start_broker
from pipeline.settings import Settings
from producers.kafka_topics import create_topics

LARGE = "x" * 100_000


def publish(bootstrap: str, settings: Settings, records: int) -> None:
    """Items, then events, both spread over the partitions."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=50, batch_size=256 << 10, compression_type="lz4")
    items = records // 100
    for n in range(items):
        body = {"item_id": f"i{n}", "title": f"thing number {n}", "categories": [f"c{n % 20}"]}
        producer.send(settings.topic("items"), json.dumps(body).encode(), key=body["item_id"].encode())
    now = time.time_ns() // 1_000_000 - records
    for n in range(records - items):
        body = {"event_type": "click", "user_id": f"u{n * 7919 % max(items, 1)}", "item_id": f"i{n % max(items, 1)}"}
        body |= {"timestamp": now + n, "event_id": f"e{n}"} | ({"note": LARGE} if n % 100 == 0 else {})
        producer.send(settings.topic("events"), json.dumps(body).encode(), key=body["user_id"].encode())
    producer.flush()
    producer.close()


def watched(stage: str, config: Path, log: Path, seconds: float) -> dict[str, float]:
    """Megabytes of memory: at most, and at the end of so many seconds."""
    with Service(config, log, "--stage", stage) as service:
        process, most, held = psutil.Process(service.process.pid), 0, 0
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and service.process.poll() is None:
            held = process.memory_info().rss
            most = max(most, held)
            time.sleep(0.2)
        read = service.metrics() if service.ready() else {}
        return {
            "peak_mb": most / 1e6,
            "end_mb": held / 1e6,
            "events": read.get("headrace_events_consumed_total", 0.0),
            "texts": read.get("headrace_texts_embedded_total", 0.0),
        }


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_broker("kafka", announce=print) as broker:
        for records in (0, given.records):
            namespace = f"backlog-{uuid.uuid4().hex[:8]}"
            epochs = {"max_events": 256}
            chosen = small_settings(broker.bootstrap, namespace, Path(folder) / "snapshots", epochs=epochs)
            config = write_settings(Path(folder) / f"{namespace}.yaml", chosen)
            settings = Settings(**chosen)
            create_topics(broker.bootstrap, settings)
            began = time.monotonic()
            publish(broker.bootstrap, settings, records)
            print(f"{records} records published in {time.monotonic() - began:.0f} s", flush=True)
            for stage in ("embedder", "learner"):
                found = watched(stage, config, Path(folder) / f"{stage}.log", given.seconds)
                print(stage, records, {name: round(value) for name, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
