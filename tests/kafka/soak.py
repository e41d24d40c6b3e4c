"""`make soak`: half an hour at 70% of the measured maximum, killed every 20 to 40 s: lag, memory and the books.

soak.py [--minutes N] [--load SHARE] [--seed N] [--report FILE]; exit 1 where lag did not return to zero
between two kills, memory grew, or an event was lost or counted twice.

Default settings, on a real broker. The maximum is measured first: what the same
process learns while ever more waits than it can read. Then events come at the
share of it that is wanted, of what it would be at the machine's present pace:
shared ones vary by half within minutes, and a share of a maximum that was
measured in better times says nothing. After each kill the next life must have lag zero again before the
next one: no more waits than has come within the last second. Memory is the
resident set of each life but the first, when it has caught up; its slope over lives is told.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from committed_log import CommittedLog
from crashing import lags
from kafka import KafkaProducer
from oracle import INPUTS, check_chain, check_counts, check_group, check_ranges
from service import Service, write_settings
from traffic import catalogue, demo

from pipeline.runtime.broker import start_broker
from pipeline.settings import Settings, load_settings
from producers.kafka_topics import create_topics

USERS = 1_500
WARM = 100 * USERS
"""Events before the maximum is measured: histories are as long then as they get, `learning.history` each."""
AHEAD, BACKLOG = 5_000, 30_000
"""So many events wait all the time while it is measured, over so many."""
STEP_S = 0.02
LOOK_STEPS = 20
GREW = 0.10
"""Of the resident set, over the whole run: more is not flat."""


@dataclass
class Life:
    """One life: when it was killed (None, at the end), how long after its start its lag was zero first.

    `pace` is the machine's at its end, 1 while the maximum was measured.
    """

    started_s: float
    zero_s: float | None = None
    killed_s: float | None = None
    rss_mb: float = 0.0
    pace: float = 1.0


class Pace:
    """How fast the machine is: what it is shared with can halve it within a minute, and double it again."""

    def __init__(self) -> None:
        self._takes: deque[float] = deque(maxlen=11)

    def look(self) -> float:
        """Seconds of this thread's processor time that counting takes now."""
        began = time.thread_time()
        for _ in range(100_000):
            pass
        self._takes.append(time.thread_time() - began)
        return self._takes[-1]

    @property
    def takes(self) -> float:
        """What counting took lately: the median of the last looks."""
        return statistics.median(self._takes)


class Events:
    """Sends events of the demo's films, from a thread, as many as fit the machine's pace."""

    def __init__(self, bootstrap: str, settings: Settings, seed: int) -> None:
        self._settings = settings
        self._chance = random.Random(seed)
        self._items = [item["item_id"] for item in demo("items")]
        # As films are watched: the n-th most popular in proportion to 1/(n + 20), so that what is kept of each is full.
        self._popularity = list(accumulate(1 / (n + 20) for n in range(len(self._items))))
        self._producer = KafkaProducer(
            bootstrap_servers=bootstrap, acks="all", linger_ms=5, delivery_timeout_ms=180_000
        )
        self._stop = threading.Event()
        self.pace = Pace()
        self.sent = 0
        for topic, key, value in catalogue(settings):
            self._producer.send(topic, value, key=(key or "").encode())
        self._producer.flush()

    def send(self, count: int) -> None:
        """So many events now."""
        for _ in range(count):
            user = f"u{self._chance.randrange(USERS)}"
            event = {
                "event_type": self._chance.choice(("view", "click", "like", "rating")), "user_id": user,
                "item_id": self._item(), "timestamp": time.time_ns() // 1_000_000,
                "event_id": f"e{self.sent}", "value": self._chance.randrange(1, 6),
            }  # fmt: skip
            self._producer.send(self._settings.topic("events"), json.dumps(event).encode(), key=user.encode())
            self.sent += 1

    def _item(self) -> str:
        return self._chance.choices(self._items, cum_weights=self._popularity)[0]

    def flush(self) -> None:
        """Wait until all are acknowledged."""
        self._producer.flush()

    def begin(self, per_count: float) -> None:
        """From now on, so many events in the time that the machine takes to count."""
        self.pace.look()
        self._thread = threading.Thread(target=self._run, args=(per_count,), name="events")
        self._thread.start()

    def end(self) -> None:
        """Stop, all acknowledged."""
        self._stop.set()
        self._thread.join()
        self._producer.flush()
        self._producer.close()

    def _run(self, per_count: float) -> None:
        at, owed, steps = time.monotonic(), 0.0, 0
        while not self._stop.wait(STEP_S):
            steps += 1
            if steps % LOOK_STEPS == 0:
                self.pace.look()
            now = time.monotonic()
            owed += (now - at) * per_count / self.pace.takes
            at = now
            self.send(int(owed))
            owed -= int(owed)


def caught_up(service: Service, waiting: float) -> bool:
    """Whether no more than so many wait: by the gauge, which the learner refreshes every second."""
    found = lags(service)
    return bool(found) and sum(found.values()) <= waiting


def wait_caught_up(service: Service, waiting: float, timeout_s: float) -> None:
    """Raises AssertionError where it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not caught_up(service, waiting):
        assert service.process.poll() is None, service.said
        assert time.monotonic() < deadline, f"still behind after {timeout_s} s: {lags(service)}"
        time.sleep(0.1)


def maximum(service: Service, events: Events) -> tuple[float, float]:
    """Events per second, by the counter, while they are sent as fast as it learns and some wait all the time.

    And seconds that the machine took to count meanwhile, in the mean.
    """
    service.wait_ready()
    events.send(WARM)
    events.flush()
    wait_caught_up(service, 0, 1200)
    name = "headrace_events_consumed_total"
    before = service.metrics()[name]
    marks: list[tuple[float, float]] = []
    takes: list[float] = []
    while not marks or marks[-1][1] < BACKLOG:
        marks.append((time.monotonic(), service.metrics()[name] - before))
        takes.append(events.pace.look())
        assert service.process.poll() is None, service.said
        events.send(WARM + AHEAD + int(marks[-1][1]) - events.sent)
        time.sleep(0.2)
    wait_caught_up(service, 0, 600)
    first = next(mark for mark in marks if mark[1] > 0.1 * BACKLOG)
    return (marks[-1][1] - first[1]) / (marks[-1][0] - first[0]), statistics.mean(takes)


def resident_mb(service: Service) -> float:
    """The process's resident set."""
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def live(service: Service, began: float, until_s: float, waiting: float) -> Life:
    """Watch a life until so many seconds after the soak began; lag zero is no more than so many waiting."""
    life = Life(time.monotonic() - began)
    while (now := time.monotonic() - began) < until_s:
        assert service.process.poll() is None, f"it ended:\n{service.said}"
        if life.zero_s is None and caught_up(service, waiting):
            life.zero_s = now - life.started_s
        if life.zero_s is not None:
            life.rss_mb = resident_mb(service)
        time.sleep(0.25)
    return life


def judge(bootstrap: str, settings: Settings) -> dict[str, Any]:
    """Every event in one manifest's range and with one outcome: the oracle's checks without its replay."""
    inputs, epochs = [settings.topic(kind) for kind in INPUTS], settings.topic("epochs")
    log = CommittedLog(bootstrap, [*inputs, epochs])
    manifests = [json.loads(record.value or b"") for record in log.partition((epochs, 0))]
    check_chain(manifests)
    positions = check_ranges(manifests, log, inputs)
    check_counts(manifests, log, settings.topic("events"))
    check_group(f"{settings.namespace}.learner.{settings.instance}", log, inputs, positions)
    kinds = [manifest["kind"] for manifest in manifests]
    return {
        "events": sum(manifest["counts"]["consumed"] for manifest in manifests),
        "epochs": kinds.count("epoch"), "starts": kinds.count("claim"),
    }  # fmt: skip


def slope(lives: list[Life]) -> float:
    """Least squares over the lives that caught up, MB per hour; the first has embedded the catalogue, no other has."""
    held = [life for life in lives[1:] if life.rss_mb]
    if len(held) < 2:
        return math.nan
    return statistics.linear_regression([life.started_s / 3600 for life in held], [life.rss_mb for life in held]).slope


def main() -> int:
    """Soak, judge, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--load", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path)
    chosen = parser.parse_args()
    chance, lives = random.Random(chosen.seed), list[Life]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-soak-")))
        broker = stack.enter_context(start_broker("kafka", announce=print))
        keys = {
            "namespace": f"soak-{uuid.uuid4().hex[:8]}", "kafka": {"bootstrap": broker.bootstrap},
            "epochs": {"snapshots": str(folder / "snapshots")}, "metrics": {"port": 0},
        }  # fmt: skip
        config = write_settings(folder / "headrace.yaml", keys)
        settings = load_settings(config, environment={})
        create_topics(broker.bootstrap, settings)
        events = Events(broker.bootstrap, settings, chosen.seed)
        service = stack.enter_context(Service(config, folder / "headrace.log"))
        most, counting_s = maximum(service, events)
        print(
            f"maximum {most:.0f} events/s; soaking at {chosen.load * most:.0f} for {chosen.minutes:g} minutes",
            flush=True,
        )
        events.begin(chosen.load * most * counting_s)
        began, until = time.monotonic(), 0.0
        try:
            while until < chosen.minutes * 60:
                until += chance.uniform(20, 40)
                life = live(service, began, until, chosen.load * most)
                lives.append(life)
                service.kill()
                life.killed_s, life.pace = time.monotonic() - began, counting_s / events.pace.takes
                told = "not caught up" if life.zero_s is None else f"caught up after {life.zero_s:.1f} s"
                print(
                    f"life {len(lives)}, {life.killed_s - life.started_s:.1f} s: {told}, {life.rss_mb:.0f} MB, the "
                    f"machine's pace {life.pace:.2f}, killed",
                    flush=True,
                )
                service = stack.enter_context(Service(config, folder / "headrace.log"))
        finally:
            events.end()
        service.wait_ready()
        wait_caught_up(service, 0, 300)
        time.sleep(3)
        assert service.stop_within(30) == 0, service.said
        judged = judge(broker.bootstrap, settings)
    return tell(chosen, most, events.sent, lives, judged)


def tell(chosen: argparse.Namespace, most: float, sent: int, lives: list[Life], judged: dict[str, Any]) -> int:
    """Print and write what it came to; the exit status. Of fewer than three lives nothing is known of memory: not 0."""
    behind = [life for life in lives[1:] if life.zero_s is None]
    zero = sorted(life.zero_s for life in lives[1:] if life.zero_s is not None)
    held = [life.rss_mb for life in lives[1:] if life.rss_mb]
    times = len(zero)
    zero, held = zero or [math.nan], held or [math.nan]
    growth = slope(lives) * chosen.minutes / 60 / held[0]
    print(
        f"{len(lives)} kills in {chosen.minutes:g} minutes; {sent} events sent, {judged}; lag back to zero before the "
        f"next kill {times} times of {len(lives) - 1}, after {statistics.median(zero):.1f} s in the middle, "
        f"{zero[-1]:.1f} at most; resident {held[0]:.0f} to {held[-1]:.0f} MB, "
        f"{slope(lives):+.0f} MB an hour ({growth:+.1%})"
    )
    if chosen.report:
        told = {"maximum": most, "sent": sent, "judged": judged, "lives": [asdict(life) for life in lives]}
        chosen.report.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return int(bool(behind) or judged["events"] != sent or not growth <= GREW)


if __name__ == "__main__":
    sys.exit(main())
