"""What the crash test and `make chaos` share: a world with traffic, lives that SIGKILL ends, and the judgement."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from committed_log import KEPT, CommittedLog
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from nursery import Nursery
from oracle import Report, topics_of
from service import HEADRACE, ROOT, Service, environment, small_settings, write_settings
from traffic import Traffic

from pipeline.settings import Settings, load_settings
from producers.kafka_topics import create_topics

QUIET_S = 3.0
STOP_S = 10.0


@dataclass
class World:
    """A namespace on a broker, with its settings, a folder and a log of all lives."""

    bootstrap: str
    folder: Path
    config: Path
    settings: Settings
    stop_s: float = STOP_S

    @classmethod
    def make(
        cls, bootstrap: str, namespace: str, folder: Path, *, through: str = "", **changed: dict[str, Any]
    ) -> World:
        """Topics made, nothing running. Headrace itself reaches the broker `through` another address, if given."""
        folder.mkdir(parents=True, exist_ok=True)
        keys = small_settings(through or bootstrap, namespace, folder / "snapshots", **changed)
        config = write_settings(folder / "headrace.yaml", keys)
        settings = load_settings(config, environment={})
        create_topics(bootstrap, settings)
        return cls(bootstrap, folder, config, settings)

    @property
    def log(self) -> Path:
        """What every life has said."""
        return self.folder / "headrace.log"

    @property
    def snapshots(self) -> Path:
        """Where the learner keeps its snapshots."""
        return self.settings.snapshot_folder

    def run(
        self,
        *arguments: str,
        program: Sequence[str] = HEADRACE,
        variables: Mapping[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> Service:
        """A new life."""
        return Service(self.config, self.log, *arguments, program=program, variables=variables, nursery=nursery)

    def traffic(self, events: int, per_second: float, seed: int) -> Traffic:
        """Items now, events from now on."""
        return Traffic(self.bootstrap, self.settings, events, per_second, seed)

    def live_and_die(self, chance: random.Random, longest_s: float, nursery: Nursery) -> Service:
        """A life that SIGKILL ends: two in five while it starts or replays the log, the others once ready.

        One in eight is started as users do, Python and all; the others come from the nursery.
        """
        cold = chance.random() < 1 / 8
        with self.run(nursery=None if cold else nursery) as service:
            if chance.random() < 0.4:
                time.sleep(chance.uniform(0.5, 7) if cold else chance.uniform(0.05, 2))
            else:
                service.wait_ready()
                time.sleep(chance.uniform(0, longest_s))
            service.kill()
        return service

    def replayed(self) -> int:
        """How many epochs all lives together had to replay, by what they said."""
        said = "".join(log.read_text("utf-8", "replace") for log in self.folder.rglob("*.log"))
        return sum(map(int, re.findall(r"then (\d+) epochs to replay", said)))

    def finish(self, service: Service, timeout_s: float = 120) -> Report:
        """Let it read everything, ask it to stop, and judge."""
        service.wait_ready()
        wait_until_read(self, service, timeout_s)
        code = service.stop_within(self.stop_s)
        assert code == 0, f"exit {code} after SIGTERM:\n{service.said}"
        return self.judge()

    def end_transaction(self) -> None:
        """End what a killed learner left open, as its successor would: what the group has committed is then final."""
        name = f"{self.settings.namespace}.learner.{self.settings.instance}"
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, transactional_id=name)
        producer.init_transactions()
        producer.close()

    def manifests(self) -> list[dict[str, Any]]:
        """What the epochs topic holds."""
        place = (self.settings.topic("epochs"), 0)
        return [json.loads(r.value or b"") for r in CommittedLog(self.bootstrap, [place[0]]).partition(place)]

    def keep(self) -> CommittedLog:
        """Write down all records for the oracle, who must know them when the log has lost them; gives them."""
        kept = self.folder / KEPT
        log = CommittedLog(self.bootstrap, topics_of(self.settings), kept)
        log.keep(kept)
        return log

    def judge(self) -> Report:
        """The oracle, in a process of its own."""
        oracle = str(Path(__file__).with_name("oracle.py"))
        command = [sys.executable, oracle, self.bootstrap, str(self.config), str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment(), check=False)
        assert done.returncode == 0, f"{done.stderr[-4000:]}\nits namespace and logs: {self.folder}"
        return Report(**json.loads(done.stdout.splitlines()[-1]))


def wait_until_read(world: World, service: Service, timeout_s: float) -> None:
    """Until the embedder has read all events and items, the learner has no lag, and no epoch came for a while."""
    inputs = [world.settings.topic(kind) for kind in ("events", "items")]
    consumer = KafkaConsumer(
        bootstrap_servers=world.bootstrap, group_id=f"{world.settings.namespace}.embedder", enable_auto_commit=False
    )
    try:
        deadline, quiet_since, epoch = time.monotonic() + timeout_s, time.monotonic(), -1.0
        while time.monotonic() - quiet_since < QUIET_S:
            assert time.monotonic() < deadline, (
                f"not all is read after {timeout_s} s: {lags(service)}, embedded: "
                f"{[_read(consumer, topic) for topic in inputs]}\n{service.stacks()}"
            )
            assert service.process.poll() is None, f"it ended:\n{service.said}"
            metrics = service.metrics()
            embedded = all(_read(consumer, topic) for topic in inputs)
            lagging = any(lags(service).values()) or not metrics
            if not embedded or lagging or metrics["headrace_epoch"] != epoch:
                quiet_since, epoch = time.monotonic(), metrics.get("headrace_epoch", -1.0)
            time.sleep(0.2)
    finally:
        consumer.close(autocommit=False)


def lags(service: Service) -> dict[str, float]:
    """Records not yet read, by topic."""
    return {name: value for name, value in service.metrics().items() if name.startswith("headrace_lag_records")}


def _read(consumer: KafkaConsumer, topic: str) -> bool:
    partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic))]
    ends = consumer.end_offsets(partitions)
    return all((consumer.committed(tp) or 0) >= end for tp, end in ends.items())


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Raises AssertionError where it does not come true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not after {timeout_s} s"
        time.sleep(0.1)
