"""Events on which the step fails every time: each is found and becomes a dead letter, and no other event does."""

from __future__ import annotations

import json
import signal
import time
from contextlib import closing
from pathlib import Path

from committed_log import Place
from crashing import World
from faults import LEAN, Trial
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from oracle import Report
from poisonous import MANNER, MANNERS, ONCE

PROGRAM = (str(Path(__file__).with_name("poisonous.py")),)
LONGEST_S = 300.0
"""To find one: some ten starts, where each attempt ends the process."""


def poison(trial: Trial) -> Report:
    """The step raises on them, or the process dies of them and is started again by whoever looks after it."""
    world = trial.found(epochs={"snapshot_interval_s": 2}, learning=LEAN)
    settings, expected, lives = world.settings, set[tuple[str, int, int]](), 0
    group = f"{settings.namespace}.learner.{settings.instance}"
    with (
        trial.busy() as traffic,
        closing(KafkaProducer(bootstrap_servers=world.bootstrap, acks="all")) as producer,
        closing(KafkaConsumer(bootstrap_servers=world.bootstrap, group_id=group, enable_auto_commit=False)) as reader,
    ):
        service = trial.live(program=PROGRAM)
        service.wait_ready()
        for number in range(trial.times):
            manner = MANNERS[number % len(MANNERS)]
            place, offset = _send(world, producer, manner, number)
            if manner != ONCE:
                expected.add((*place, offset))
            deadline = time.monotonic() + LONGEST_S
            while (reader.committed(TopicPartition(*place)) or 0) <= offset:
                assert time.monotonic() < deadline, f"{manner} at {place} {offset}: never passed\n{service.said}"
                if service.process.poll() is not None:
                    assert service.process.returncode == -signal.SIGKILL, service.said
                    service, lives = trial.live(program=PROGRAM), lives + 1
                time.sleep(0.2)
            trial.strike(f"events that {manner}")
            trial.pause(0, 1)
        traffic.finish()
        report = world.finish(service)
    assert _set_apart(world) == expected
    trial.notes.append(f"{lives} deaths")
    return report


def _send(world: World, producer: KafkaProducer, manner: str, number: int) -> tuple[Place, int]:
    """An event like any other but for its context; gives where it lies."""
    event = {
        "event_id": f"spoilt-{number}",
        "event_type": "view",
        "user_id": f"user-{number % 40}",
        "item_id": "it-is-of-no-matter",
        "timestamp": int(time.time() * 1000),
        "context": {MANNER: manner},
    }
    key = event["user_id"].encode()
    sent = producer.send(world.settings.topic("events"), json.dumps(event).encode(), key=key).get(30)
    return (sent.topic, sent.partition), sent.offset


def _set_apart(world: World) -> set[tuple[str, int, int]]:
    """What the manifests say was poison."""
    return {(p["topic"], p["partition"], p["offset"]) for m in world.manifests() for p in m["poisoned"]}
