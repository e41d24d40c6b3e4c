"""A poisoned feed on real Kafka, taken back by the command line, judged by the oracle; then a user erased, checked."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from committed_log import CommittedLog
from crashing import World, wait_for
from kafka import KafkaProducer
from service import headrace

from pipeline.runtime.broker import Broker

POISON = 120


def poison(world: World) -> None:
    """One user who likes the same item again and again, searches, and likes what nobody else knows."""
    producer = KafkaProducer(bootstrap_servers=world.bootstrap, acks="all", enable_idempotence=True)
    for number in range(POISON):
        event: dict[str, Any] = {"event_type": "rating", "user_id": "bot", "value": 5, "event_id": f"bad-{number}"}
        event |= {"item_id": "the-bots-own" if number % 7 == 0 else "1", "timestamp": time.time_ns() // 1_000_000}
        if number % 20 == 3:
            event = {k: v for k, v in event.items() if k not in ("item_id", "value")}
            event |= {"event_type": "search", "text": "buy this"}
        producer.send(world.settings.topic("events"), json.dumps(event).encode(), key=b"bot")
    producer.flush()
    producer.close()


def lists_of(world: World, user: str) -> list[bytes | None]:
    """Values of a user's home list, in order."""
    topic = world.settings.topic("recommendations")
    log = CommittedLog(world.bootstrap, [topic])
    return [r.value for place in log.places([topic]) for r in log.partition(place) if r.key == f"home:{user}".encode()]


def last_epoch(world: World) -> int:
    return world.manifests()[-1]["epoch"]


def ran(world: World, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return headrace(*arguments, "--config", world.config, timeout=300)


@pytest.mark.timeout(900)
def test_a_poisoned_feed_is_taken_back_and_a_user_is_erased(broker: Broker, namespace: str, tmp_path: Path) -> None:
    world = World.make(broker.bootstrap, namespace, tmp_path)
    with world.run() as service, world.traffic(events=150, per_second=40, seed=5) as traffic:
        service.wait_ready()
        wait_for(lambda: traffic.exhausted, 120, "the traffic ends")
        traffic.finish()
        world.finish(service)
    base = last_epoch(world)
    with world.run() as service, world.traffic(events=150, per_second=40, seed=6) as traffic:
        service.wait_ready()
        poison(world)
        wait_for(lambda: traffic.exhausted, 120, "the traffic ends")
        refused = ran(world, "rewind", "--to", base, "--without", "user=bot", "--yes")
        assert refused.returncode == 1
        assert "another process writes its snapshots here" in refused.stderr
        traffic.finish()
        world.finish(service)
    assert lists_of(world, "bot")[-1] is not None
    check_rewind(world, base)
    check_plan(world, tmp_path / "log.jsonl")
    check_erasure(world)


def check_rewind(world: World, base: int) -> None:
    """Said first, then done; the next life publishes; the oracle agrees."""
    stood = last_epoch(world)
    row = json.loads(ran(world, "rewind", "--to", base, "--without", "user=bot", "--dry-run", "--json").stdout)
    assert (row["taken_back"], row["users_left_out"]) == ([base + 1, stood], 1)
    assert sum(row["events_left_out"].values()) == POISON
    unasked = ran(world, "rewind", "--to", base, "--without", "user=bot")
    assert (unasked.returncode, last_epoch(world)) == (2, stood)
    assert f"left out: {POISON} events of 1 users" in unasked.stdout
    done = ran(world, "rewind", "--to", base, "--without", "user=bot", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    planned, outcome = map(json.loads, done.stdout.splitlines())
    assert {**planned, "start": row["start"]} == row  # which says how old the state is
    assert outcome["past"] == {"gaps": 0, "lost": 0, "rewinds": 1, "left_out": POISON}
    assert outcome["lists_due"] + outcome["lists_withdrawn"] > 0
    with world.run() as service:
        service.wait_ready()
        wait_for(lambda: lists_of(world, "bot")[-1] is None, 60, "the bot's list is withdrawn")
        assert service.metrics()["headrace_rewinds_total"] == 1
        assert service.metrics()["headrace_rewind_events_total"] == POISON
        report = world.finish(service)
    assert report.rewinds == 1
    print(f"rewound to epoch {base} of {stood}: {unasked.stdout}{done.stdout}{report}")


def check_plan(world: World, dump: Path) -> None:
    """The dumped log gives the same again, without a broker."""
    assert ran(world, "dump", "--out", dump).returncode == 0
    again = ran(world, "evaluate", "--plan", dump)
    assert again.returncode == 0, again.stderr
    assert "digests and counts equal" in again.stdout


def check_erasure(world: World) -> None:
    """Not erased, erased, checked, with a learner running."""
    with world.run() as service:
        service.wait_ready()
        topic = world.settings.topic("recommendations")
        log = CommittedLog(world.bootstrap, [topic])
        records = [r for place in log.places([topic]) for r in log.partition(place) if r.value]
        user = next((r.key or b"").decode()[5:] for r in reversed(records) if (r.key or b"").startswith(b"home:"))
        there = ran(world, "erase", "--verify", user)
        assert there.returncode == 1
        assert "NOT GONE" in there.stdout
        assert ran(world, "erase", user).returncode == 0
        wait_for(lambda: lists_of(world, user)[-1] is None, 60, "the list is withdrawn")
        gone = ran(world, "erase", "--verify", user, "--json")
        assert gone.returncode == 0, gone.stderr
        verdict = json.loads(gone.stdout)
        assert verdict["exact"]
        assert verdict["since"] == 0
        assert verdict["left_out"] > 0
        print(ran(world, "erase", "--verify", user).stdout)
        world.finish(service)
