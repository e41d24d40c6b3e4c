"""From an event to the list that follows from it, through real Kafka, against a bare loop fed at the same rate.

    python tests/benchmarks/latency.py --data DIR [--rates 250] [--seconds 15] [--rounds 3] [--effort auto]

DIR holds items.jsonl.gz and events.jsonl.gz, see `convert.py`. One process, `headrace run --stage learner`, default
settings, its items embedded before; it starts on a backlog that fills its users' histories. Then more
is sent than it can carry, at the pace of the backlog's last third, and the lists that come, each of them
read, are counted: with sender, broker and reader beside it as afterwards, that is its load. In every round,
events of users who follow one another in turn are sent at each rate and at half of that load: to the learner, and to
a bare loop in a process of its own, which reads them and publishes for each the very bytes of a list
of that event's user, in transactions as the learner's. Time passes from the call that sends an event
until a plain kafka-python consumer that reads what is committed has the list which names it. Said beside
it, by the learner's own metrics: how many events an epoch had, how long its step and its commit took, and of
how many events in a hundred it learned at which level of effort.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "kafka")]

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition  # noqa: E402
from kafka.admin import NewTopic  # noqa: E402
from kafka.structs import OffsetAndMetadata  # noqa: E402
from service import Service  # noqa: E402
from throughput import Place, embedded, publish, transactional  # noqa: E402

from consumers.file import read_jsonl  # noqa: E402
from pipeline.runtime.broker import start_broker  # noqa: E402
from pipeline.settings import Settings  # noqa: E402

HERE = Path(__file__).parent
MOST_S = 400.0
PATIENCE_S = 20.0
USERS = 6_000
WARM_UP_S = 5.0
FLOOD_S = 15.0


@dataclass(frozen=True)
class Round:
    """Milliseconds at one rate, in events per second; `missing` events had no list of their own in the end.

    `step` and `commit` are means over the learner's epochs, of `per_epoch` events on average.
    """

    rate: float
    p50: float
    p99: float
    bare_p50: float
    bare_p99: float
    missing: int
    bare_missing: int
    per_epoch: float
    step: float
    commit: float
    effort: dict[str, float]


class Lists:
    """A consumer of committed lists, in a thread: which event each names, and when it came."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.came: dict[str, float] = {}
        self.bytes: dict[str, bytes] = {}
        self._consumer = KafkaConsumer(
            bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed"
        )
        self._consumer.assign([TopicPartition(topic, n) for n in sorted(self._consumer.partitions_for_topic(topic))])
        self._consumer.seek_to_end()
        for place in self._consumer.assignment():
            self._consumer.position(place)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            polled = self._consumer.poll(timeout_ms=200)
            now = time.monotonic()
            for record in (record for records in polled.values() for record in records):
                if record.value is not None and (event := json.loads(record.value).get("trigger_event_id")):
                    self.came.setdefault(event, now)
                    self.bytes[record.key.decode().partition(":")[2]] = record.value

    def wait_for(self, event: str, timeout_s: float) -> float:
        """When the list that names an event came, by the steady clock. Raises AssertionError."""
        end = time.monotonic() + timeout_s
        while event not in self.came:
            assert time.monotonic() < end, f"no list of {event} after {timeout_s} s"
            time.sleep(0.01)
        return self.came[event]

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join()
        self._consumer.close(autocommit=False)


class Shoppers:
    """Who sends events: users in turn, so many that few are in an epoch twice, each of some item drawn at random."""

    def __init__(self, bootstrap: str, items: Sequence[str]) -> None:
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=0)
        self._items = items
        self._chance = random.Random(1)
        self._sent = 0

    def send(self, topic: str) -> str:
        """One event; its id."""
        user, event = f"u{self._sent * 7 % USERS}", f"e{self._sent}"
        self._sent += 1
        value = {
            "event_type": "like", "user_id": user, "item_id": self._chance.choice(self._items),
            "timestamp": time.time_ns() // 1_000_000, "event_id": event,
        }  # fmt: skip
        self._producer.send(topic, json.dumps(value).encode(), key=user.encode())
        return event

    def at_rate(self, topic: str, rate: float, seconds: float) -> dict[str, float]:
        """When each event was sent."""
        sent: dict[str, float] = {}
        began = time.monotonic()
        for number in range(round(rate * seconds)):
            if (wait := began + number / rate - time.monotonic()) > 0:
                time.sleep(wait)
            now = time.monotonic()
            sent[self.send(topic)] = now
        return sent

    def flush(self) -> None:
        """Until all is there."""
        self._producer.flush()


def latencies(lists: Lists, sent: dict[str, float]) -> tuple[list[float], int]:
    """Milliseconds, sorted, once all lists have come or nobody would wait for them; how many never came."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and not sent.keys() <= lists.came.keys():
        time.sleep(0.05)
    found = sorted((lists.came[event] - at) * 1000 for event, at in sent.items() if event in lists.came)
    return found, len(sent) - len(found)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ordered numbers."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def bare_loop(bootstrap: str, events: str, lists: str, made: dict[str, bytes], parts: int) -> None:
    """For each event a list's bytes with the event's id in place, one transaction for all that a poll gave."""
    name = f"bare-{uuid.uuid4().hex[:8]}"
    producer = transactional(bootstrap, name)
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, isolation_level="read_committed",
        auto_offset_reset="earliest",
    )  # fmt: skip
    places = [TopicPartition(events, n) for n in range(parts)]
    consumer.assign(places)
    some = next(iter(made.values()))
    while True:
        polled = consumer.poll(timeout_ms=200, max_records=256)
        if not polled:
            continue
        producer.begin_transaction()
        for record in (record for records in polled.values() for record in records):
            user = record.key.decode()
            before, _, after = made.get(user, some).partition(b'"trigger_event_id":"')
            event = json.loads(record.value)["event_id"].encode()
            value = before + b'"trigger_event_id":"' + event + after[after.index(b'"') :]
            producer.send(lists, value, key=f"home:{user}".encode())
        producer.flush()
        offsets = {place: OffsetAndMetadata(consumer.position(place), "", -1) for place in places}
        producer.send_offsets_to_transaction(offsets, name)
        producer.commit_transaction()


@contextlib.contextmanager
def bare(settings: Settings, made: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    """A bare loop over topics of its own; their names, of events and of lists."""
    bootstrap, parts = settings.kafka.bootstrap, settings.kafka.partitions
    topics = (f"bare.{uuid.uuid4().hex[:8]}.events", f"bare.{uuid.uuid4().hex[:8]}.lists")
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, parts, 1) for topic in topics])
    admin.close()
    work = multiprocessing.get_context("spawn").Process(
        target=bare_loop, args=(bootstrap, *topics, made, parts), daemon=True
    )
    work.start()
    try:
        yield topics
    finally:
        work.kill()
        work.join()


def until_read(learner: Service, events: int) -> float:
    """Events per second of the backlog's last third."""
    consumed, first, end = "headrace_events_consumed_total", (0.0, 0.0), time.monotonic() + MOST_S
    while (now := learner.metrics().get(consumed, 0.0)) < events:
        assert learner.process.poll() is None, learner.said
        assert time.monotonic() < end, "it took too long"
        if now >= 2 * events / 3 and not first[0]:
            first = (now, time.monotonic())
        time.sleep(0.1)
    return (now - first[0]) / (time.monotonic() - first[1])


def started(
    bootstrap: str, folder: Path, data: Path, backlog: int, effort: str = "auto"
) -> tuple[Settings, Service, Shoppers, float]:
    """A learner that has read its backlog; the load that it can carry, in events per second."""
    place = Place(bootstrap, folder, effort)
    described, _ = publish(place.settings, data, 0)
    embedded(place, described)
    items = [json.loads(line)["item_id"] for _, line in read_jsonl(data / "items.jsonl.gz")]
    shoppers = Shoppers(bootstrap, items)
    for _ in range(backlog):
        shoppers.send(place.settings.topic("events"))
    shoppers.flush()
    learner = place.start("learner")
    return place.settings, learner, shoppers, until_read(learner, backlog)


def carried(shoppers: Shoppers, lists: Lists, topic: str, rate: float) -> float:
    """Lists per second under more events than that: of the last two thirds of the time; afterwards none waits."""
    counted: list[tuple[float, int]] = []
    sent: dict[str, float] = {}
    for _ in range(3):
        sent |= shoppers.at_rate(topic, rate, FLOOD_S / 3)
        counted.append((time.monotonic(), len(lists.came)))
    lists.wait_for(list(sent)[-1], MOST_S)
    (began, before), *_, (ended, after) = counted
    return (after - before) / (ended - began)


def once(shoppers: Shoppers, lists: Lists, topic: str, rate: float, seconds: float) -> tuple[float, float, int]:
    """Milliseconds p50 and p99, and the events without a list; while the rate is new none is counted."""
    shoppers.at_rate(topic, rate, WARM_UP_S)
    found, missing = latencies(lists, shoppers.at_rate(topic, rate, seconds))
    return percentile(found, 0.5), percentile(found, 0.99), missing


def epochs_of(before: dict[str, float], after: dict[str, float]) -> tuple[float, float, float, dict[str, float]]:
    """Events per epoch, milliseconds of its step and its commit, percent of events by level, between two looks."""

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    stages = [f'headrace_stage_seconds_{{}}{{{{stage="{name}"}}}}' for name in ("step", "commit")]
    epochs = grown(stages[1].format("count"))
    step, commit = (1000 * grown(stage.format("sum")) / epochs for stage in stages)
    events = "headrace_effort_events_total{level="
    by_level = {name.removeprefix(events).strip('"}'): grown(name) for name in after if name.startswith(events)}
    told = {level: 100 * here / sum(by_level.values()) for level, here in by_level.items() if here}
    return grown("headrace_events_consumed_total") / epochs, step, commit, told


def line(name: str, rounds: Sequence[Round]) -> str:
    """Rounds as text: medians, and the spread of the ratios."""

    def told(key: str) -> str:
        ratios = sorted(getattr(one, key) / getattr(one, f"bare_{key}") for one in rounds)
        ours, theirs = (statistics.median(getattr(one, f"{who}{key}") for one in rounds) for who in ("", "bare_"))
        return (
            f"{key} {ours:.0f} ms, bare {theirs:.0f} ms, "
            f"{statistics.median(ratios):.2f} times ({ratios[0]:.2f}–{ratios[-1]:.2f})"
        )

    without = sum(one.missing + one.bare_missing for one in rounds)
    events, step, commit = (
        statistics.median(getattr(one, key) for one in rounds) for key in ("per_epoch", "step", "commit")
    )
    shares = ", ".join(f"{level}: {share:.0f} %" for level, share in sorted(rounds[-1].effort.items()))
    return (
        f"{name}, {rounds[0].rate:.0f} events/s: {told('p50')}; {told('p99')}; {without} events without a list; "
        f"{events:.0f} events an epoch, step {step:.0f} ms, commit {commit:.0f} ms; effort {shares}"
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rates", default="250")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backlog", type=int, default=120_000)
    parser.add_argument("--effort", default="auto")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "latency.json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start_broker("kafka", announce=print) as broker:
        settings, learner, shoppers, pace = started(
            broker.bootstrap, Path(folder), chosen.data, chosen.backlog, chosen.effort
        )
        with learner:
            lists = Lists(broker.bootstrap, settings.topic("recommendations"))
            load = carried(shoppers, lists, settings.topic("events"), pace)
            print(f"a backlog of {chosen.backlog} events: {pace:.0f} events/s; live: {load:.0f} lists/s", flush=True)
            rates = {f"at {rate}/s": float(rate) for rate in chosen.rates.split(",")} | {"at half the load": load / 2}
            rows: dict[str, list[Round]] = {name: [] for name in rates}
            for _ in range(chosen.rounds):
                for name, rate in rates.items():
                    before = learner.metrics()
                    ours = once(shoppers, lists, settings.topic("events"), rate, chosen.seconds)
                    told = epochs_of(before, learner.metrics())
                    with bare(settings, lists.bytes) as (events, made):
                        theirs = Lists(broker.bootstrap, made)
                        plain = once(shoppers, theirs, events, rate, chosen.seconds)
                        theirs.close()
                    rows[name].append(Round(rate, *ours[:2], *plain[:2], ours[2], plain[2], *told))
                    print(line(name, rows[name][-1:]), flush=True)
            lists.close()
            assert learner.stop_within(120) == 0
    for name, rounds in rows.items():
        print(line(name, rounds))
    result = {"load": load, "rounds": {name: [asdict(one) for one in rounds] for name, rounds in rows.items()}}
    chosen.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
