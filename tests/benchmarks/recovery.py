"""How long a start takes after a kill: by the size of the state and by how much was not in a snapshot yet.

    python tests/benchmarks/recovery.py [--megabytes 100,1000] [--loads 50,250,1000] [--seconds 30]

A learner with default settings (texts become hashed vectors as wide as
MiniLM's: embedding is not what is measured) is brought to a state of that size.
Then, for each load, events come for so many seconds with snapshots switched
off, it is killed, an event is sent, and it is started again: from the start of the process to /readyz, and
until the list that follows from that event has come. Last, as it is by default, at the highest load:
snapshots follow the work.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "kafka")]

from crashing import lags  # noqa: E402
from kafka import KafkaProducer  # noqa: E402
from latency import Lists  # noqa: E402
from service import Service, write_settings  # noqa: E402

from pipeline.runtime.broker import start_broker  # noqa: E402
from pipeline.settings import Settings, load_settings  # noqa: E402
from producers.kafka_topics import create_topics  # noqa: E402

ITEM_KB, USER_KB, FIXED_MB = 14.7, 2.3, 70
"""Of state, about, as arenas stand after they doubled; of what is not fixed, half is to be items."""
ACTIVE = 3_000
NEVER = {"snapshot_interval_s": 1e9, "replay_s": 0}


class Shop:
    """A catalogue, and events of its users."""

    def __init__(self, bootstrap: str, settings: Settings, megabytes: float) -> None:
        self.items = int(max(megabytes - FIXED_MB, 1) * 1000 / 2 / ITEM_KB)
        self.users = int(max(megabytes - FIXED_MB, 1) * 1000 / 2 / USER_KB)
        self._settings = settings
        self._chance = random.Random(1)
        self._sent = 0
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=5, batch_size=1 << 18)

    def fill(self) -> None:
        """Every item, every user, and an event of some: whom a record made known takes as much room."""
        for number in range(self.items):
            item = {"item_id": f"i{number}", "title": f"thing number {number}", "categories": [f"c{number % 50}"]}
            self._producer.send(self._settings.topic("items"), json.dumps(item).encode(), key=b"i%d" % number)
        for number in range(self.users):
            user = {"user_id": f"u{number}", "attributes": {"plan": f"p{number % 3}"}}
            self._producer.send(self._settings.topic("users"), json.dumps(user).encode(), key=b"u%d" % number)
        for number in range(min(self.users, ACTIVE)):
            self._event(f"u{number}")
        self._producer.flush()

    def ask(self) -> str:
        """One event; its id."""
        self._event("u0")
        self._producer.flush()
        return f"e{self._sent - 1}"

    def publish(self, per_second: float, seconds: float) -> None:
        """At an even rate."""
        began, first = time.monotonic(), self._sent
        while (passed := time.monotonic() - began) < seconds:
            for _ in range(round(passed * per_second) - (self._sent - first)):
                self._event(f"u{self._chance.randrange(self.users)}")
            time.sleep(0.005)
        self._producer.flush()

    def _event(self, user: str) -> None:
        event = {
            "event_type": "like", "user_id": user, "item_id": f"i{self._chance.randrange(self.items)}",
            "timestamp": time.time_ns() // 1_000_000, "event_id": f"e{self._sent}",
        }  # fmt: skip
        self._producer.send(self._settings.topic("events"), json.dumps(event).encode(), key=user.encode())
        self._sent += 1


class Place:
    """A namespace, its folder and settings."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.keys: dict[str, Any] = {
            "namespace": f"recovery-{uuid.uuid4().hex[:8]}",
            "kafka": {"bootstrap": bootstrap},
            "encoding": {"model": "hashing-384"},
            "metrics": {"port": 0},
        }
        self.folder = folder / self.keys["namespace"]
        self.folder.mkdir()

    def start(self, **epochs: float) -> Service:
        """A life with these settings of epochs."""
        epochs_keys = {"snapshots": str(self.folder / "snapshots"), **epochs}
        config = write_settings(self.folder / "headrace.yaml", {**self.keys, "epochs": epochs_keys})
        return Service(config, self.folder / "headrace.log")

    @property
    def settings(self) -> Settings:
        """As of the file."""
        return load_settings(self.folder / "headrace.yaml", environment={})

    def snapshot_mb(self) -> float:
        """The newest snapshot's size."""
        return max(self.folder.rglob("*.snapshot")).stat().st_size / 1e6


def wait_read(service: Service, timeout_s: float) -> None:
    """Until it has no lag; raises AssertionError."""
    deadline = time.monotonic() + timeout_s
    quiet = 0
    while quiet < 15:
        assert service.process.poll() is None, service.said
        assert time.monotonic() < deadline, f"{lags(service)} after {timeout_s} s"
        found = lags(service)
        quiet = quiet + 1 if found and not any(found.values()) else 0
        time.sleep(0.3)


def started(place: Place, **epochs: float) -> tuple[float, int, Service]:
    """Seconds to readiness, and how many epochs were replayed."""
    began = time.monotonic()
    service = place.start(**epochs)
    service.wait_ready(600)
    seconds = time.monotonic() - began
    found = re.findall(r"(\d+) epochs", service.said)
    return seconds, int(found[-1]) if found else 0, service


def measured(
    bootstrap: str, folder: Path, megabytes: float, loads: list[float], seconds: float
) -> Iterator[dict[str, Any]]:
    """A row per load, and one of the defaults."""
    place = Place(bootstrap, folder)
    with place.start() as first:
        create_topics(bootstrap, place.settings)
        shop = Shop(bootstrap, place.settings, megabytes)
        shop.fill()
        first.wait_ready()
        wait_read(first, 3600)
        assert first.stop_within(120) == 0
    print(f"{shop.items} items, {shop.users} users: {place.snapshot_mb():.0f} MB", flush=True)
    for load, epochs in [*((load, NEVER) for load in loads), (loads[-1], {})]:
        _, _, service = started(place, **epochs)
        with service:
            consumed = "headrace_events_consumed_total"
            before = service.metrics()[consumed]
            shop.publish(load, seconds)
            learned = service.metrics()[consumed] - before
            service.kill()
        lists = Lists(bootstrap, place.settings.topic("recommendations"))
        asked, began = shop.ask(), time.monotonic()
        took, replayed, service = started(place, **epochs)
        with service:
            listed = lists.wait_for(asked, 600) - began
            lists.close()
            wait_read(service, 600)
            assert service.stop_within(120) == 0
        yield {
            "state_mb": place.snapshot_mb(), "load": load, "seconds": seconds, "learned": learned,
            "snapshots": "by default" if not epochs else "none meanwhile", "replayed": replayed, "took_s": took,
            "listed_s": listed,
        }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """As text."""
    return (
        f"{row['state_mb']:.0f} MB, {row['load']:g} events/s for {row['seconds']:g} s ({row['learned']:.0f} learned), "
        f"snapshots {row['snapshots']}: ready after {row['took_s']:.1f} s, "
        f"the first list after {row['listed_s']:.1f} s, {row['replayed']} epochs replayed"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", default="100,1000")
    parser.add_argument("--loads", default="50,250,1000")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "recovery.json")
    chosen = parser.parse_args()
    loads = [float(load) for load in chosen.loads.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder, start_broker("kafka", announce=print) as broker:
        for megabytes in chosen.megabytes.split(","):
            for row in measured(broker.bootstrap, Path(folder), float(megabytes), loads, chosen.seconds):
                rows.append(row)
                print(line(row), flush=True)
    chosen.out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
