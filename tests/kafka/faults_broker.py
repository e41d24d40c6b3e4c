"""The broker and the way to it: killed, its leaders killed, connections cut, slowed and held, partitions added."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from crashing import World, wait_for
from faults import LEAN, Trial, learns_on
from kafka import KafkaAdminClient
from oracle import Report
from proxy import Proxy

from pipeline.runtime.broker import Cluster, start_broker, start_cluster
from pipeline.runtime.broker.ports import free_port

GROWING = ("events", "items", "users", "event-vectors")
TRANSACTIONS = "__transaction_state"


def broker_crashes(trial: Trial) -> Report:
    """The broker is killed under load and comes back: Headrace waits, recovers and loses nothing."""
    world = trial.found(learning=LEAN)
    with trial.busy() as traffic, world.run() as service:
        for _ in range(trial.times):
            service.wait_ready()
            trial.pause(1, 4)
            trial.broker.kill()
            trial.pause(0, 4)
            trial.broker.restart()
            trial.strike("broker crashes")
            learns_on(service)
        traffic.finish()
        return world.finish(service)


@contextmanager
def behind_a_proxy(trial: Trial) -> Iterator[tuple[World, Proxy]]:
    """A world whose Headrace reaches its broker through a proxy alone; traffic and judgement go past it."""
    with Proxy(free_port()) as proxy, start_broker("kafka", announce=print, properties=proxy.listener()) as broker:
        yield trial.found(broker.bootstrap, proxy.bootstrap, learning=LEAN), proxy


def connections(trial: Trial) -> Report:
    """All connections are cut; new ones are refused for a while; all is slowed to some KB/s."""
    with behind_a_proxy(trial) as (world, proxy), trial.busy() as traffic, world.run() as service:
        service.wait_ready()
        for _ in range(trial.times):
            proxy.cut()
            trial.strike("cuts")
            trial.pause(0, 2)
            proxy.refuse()
            trial.strike("refusals")
            trial.pause(0.2, 4)
            proxy.calm()
            trial.pause(0, 2)
            proxy.slow(trial.chance.choice((2_000, 10_000, 50_000)))
            trial.strike("slow spells")
            trial.pause(1, 5)
            proxy.calm()
            learns_on(service, 60)
        assert proxy.cut_connections > 2 * trial.times, "hardly anything went through the proxy"
        traffic.finish()
        return world.finish(service)


def black_holes(trial: Trial) -> Report:
    """Bytes are held back: for less than a transaction may take, for longer, and for longer than a request waits."""
    with behind_a_proxy(trial) as (world, proxy), trial.busy() as traffic, world.run() as service:
        service.wait_ready()
        for number in range(trial.times):
            trial.pause(0, 2)
            proxy.hold()
            trial.pause(*((32, 36) if number % 7 == 3 else (1, 10)))
            proxy.calm()
            trial.strike("black holes")
            learns_on(service)
        traffic.finish()
        return world.finish(service)


def partitions(trial: Trial) -> Report:
    """Partitions are added to the inputs under load: each record of them is read, from offset 0."""
    world = trial.found(learning=LEAN)
    counts = dict.fromkeys(GROWING, world.settings.kafka.partitions)
    with trial.busy() as traffic, closing(_admin(world.bootstrap)) as admin:
        service = trial.live()
        service.wait_ready()
        for _ in range(trial.times):
            kind = trial.chance.choice(GROWING)
            counts[kind] += 1
            admin.create_partitions({world.settings.topic(kind): counts[kind]})
            trial.strike("added partitions")
            trial.pause(0, 4)
            if trial.chance.random() < 0.2:
                service.kill()
                trial.strike("SIGKILLs")
                service = trial.live()
                service.wait_ready()
        learns_on(service)
        traffic.finish()
        return world.finish(service)


def leaders(trial: Trial) -> Report:
    """Of three nodes the one that leads the epochs, the events or the transactions is killed under load, and comes
    back.
    """
    with start_cluster(3, announce=print) as cluster:
        world = trial.found(cluster.bootstrap, learning=LEAN)
        with trial.busy() as traffic, world.run() as service, closing(_admin(world.bootstrap)) as admin:
            service.wait_ready()
            for number in range(trial.times):
                what, topic, partition = _led(world, number)
                node = cluster.nodes[_leader(admin, topic, partition) - 1]
                node.kill()
                trial.strike(f"killed {what}")
                trial.pause(0, 9)
                node.restart()
                wait_for(lambda: _replicated(admin, world, cluster), 120, "every replica has caught up")
                learns_on(service)
            traffic.finish()
            return world.finish(service)


def _led(world: World, number: int) -> tuple[str, str, int]:
    """Whose leader is next: what to call it, its topic and partition."""
    settings = world.settings
    transactional_id = f"{settings.namespace}.learner.{settings.instance}"
    return (
        ("leaders of epochs", settings.topic("epochs"), 0),
        ("leaders of events", settings.topic("events"), number % settings.kafka.partitions),
        ("coordinators", TRANSACTIONS, _java_hash(transactional_id) % 5),
    )[number % 3]


def _java_hash(text: str) -> int:
    """As Kafka's coordinator for a transactional id is found: String.hashCode without its sign."""
    value = 0
    for letter in text:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    return value & 0x7FFFFFFF


def _admin(bootstrap: str) -> KafkaAdminClient:
    return KafkaAdminClient(bootstrap_servers=bootstrap, metadata_max_age_ms=1000, request_timeout_ms=10_000)


def _described(admin: KafkaAdminClient, topics: list[str]) -> list[dict[str, Any]]:
    return [part for topic in admin.describe_topics(topics) for part in topic["partitions"]]


def _leader(admin: KafkaAdminClient, topic: str, partition: int) -> int:
    deadline = time.monotonic() + 60
    while True:
        leader = next(p["leader_id"] for p in _described(admin, [topic]) if p["partition_index"] == partition)
        if leader > 0:
            return int(leader)
        assert time.monotonic() < deadline, f"{topic}-{partition} has no leader"
        time.sleep(0.2)


def _replicated(admin: KafkaAdminClient, world: World, cluster: Cluster) -> bool:
    topics = [world.settings.topic(kind) for kind in ("events", "epochs", "items")] + [TRANSACTIONS]
    return all(len(part["isr_nodes"]) == len(cluster.nodes) for part in _described(admin, topics))
