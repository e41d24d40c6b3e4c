"""The worlds in which every Source and Sink must behave alike: in memory and on a real Kafka, merged, dumped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaPartition

from consumers.aligned import AlignedSource
from consumers.dump import DumpSource, dumped, read_dumped
from consumers.kafka import KafkaSource
from consumers.memory import MemoryLog, MemorySource
from pipeline.messages import Counts, Manifest, Output, Record, TopicPartition
from pipeline.ports import Sink, Source
from producers.kafka import KafkaSink
from producers.memory import MemorySink


class World(Protocol):
    """A log, and ways to do to it what a Source or a Sink must cope with."""

    def topic(self, partitions: int = 1) -> str:
        """Make a topic that is empty."""

    def source(self, *topics: str) -> Source:
        """A source that knows no positions yet."""

    def sink(self, transactional_id: str, epochs: str | None = None, group: str | None = None) -> Sink:
        """A sink that has not started."""

    def append(self, *outputs: Output) -> None:
        """Append outside any transaction."""

    def leave_open(self, transactional_id: str, *outputs: Output) -> None:
        """Die in the middle of a transaction that wrote these."""

    def committed(self, group: str, partition: TopicPartition) -> int | None:
        """The group's committed position."""

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        """Let retention do its work."""


class Wall:
    """The time of day."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


class MemoryWorld:
    """Everything in this process."""

    def __init__(self, namespace: str) -> None:
        self.log = MemoryLog(Wall())
        self.namespace = namespace
        self.topics = 0

    def topic(self, partitions: int = 1) -> str:
        self.topics += 1
        name = f"{self.namespace}.{self.topics}"
        self.log.create(name, partitions)
        return name

    def source(self, *topics: str) -> Source:
        return MemorySource(self.log, topics)

    def sink(self, transactional_id: str, epochs: str | None = None, group: str | None = None) -> Sink:
        return MemorySink(self.log, f"{self.namespace}.{transactional_id}", epochs, group=group)

    def append(self, *outputs: Output) -> None:
        for output in outputs:
            self.log.append(output)

    def leave_open(self, transactional_id: str, *outputs: Output) -> None:
        name = f"{self.namespace}.{transactional_id}"
        epoch = self.log.take_over(name)
        self.log.begin(name, epoch)
        for output in outputs:
            self.log.send(name, epoch, output)

    def committed(self, group: str, partition: TopicPartition) -> int | None:
        return self.log.committed(group).get(partition)

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        self.log.delete_before(partition, offset)


class KafkaWorld:
    """A real broker, shared with other tests."""

    def __init__(self, namespace: str, bootstrap: str) -> None:
        self.namespace = namespace
        self.bootstrap = bootstrap
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap)
        self.opened: list[Any] = []
        self.topics = 0

    def topic(self, partitions: int = 1) -> str:
        self.topics += 1
        name = f"{self.namespace}.{self.topics}"
        plan = {name: {"num_partitions": partitions, "replication_factor": 1}}
        self.admin.create_topics(plan, wait_for_metadata=True)
        return name

    def source(self, *topics: str) -> Source:
        return self.later_closed(KafkaSource(self.bootstrap, topics))

    def sink(self, transactional_id: str, epochs: str | None = None, group: str | None = None) -> Sink:
        name = f"{self.namespace}.{transactional_id}"
        return self.later_closed(KafkaSink(self.bootstrap, name, epochs, group=self.group(group)))

    def append(self, *outputs: Output) -> None:
        producer = KafkaProducer(bootstrap_servers=self.bootstrap, acks="all")
        for output in outputs:
            producer.send(output.topic, output.value, output.key, list(output.headers)).get(10)
        producer.close()

    def leave_open(self, transactional_id: str, *outputs: Output) -> None:
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, transactional_id=f"{self.namespace}.{transactional_id}"
        )
        producer.init_transactions()
        producer.begin_transaction()
        for output in outputs:
            producer.send(output.topic, output.value, output.key, list(output.headers))
        producer.flush()
        producer.close(timeout=0)

    def committed(self, group: str, partition: TopicPartition) -> int | None:
        place = KafkaPartition(partition.topic, partition.partition)
        found = self.admin.list_group_offsets([self.group(group)]).get(self.group(group), {}).get(place)
        return None if found is None else int(found.offset)

    def delete_before(self, partition: TopicPartition, offset: int) -> None:
        self.admin.delete_records({KafkaPartition(partition.topic, partition.partition): offset})

    def group(self, group: str | None) -> str | None:
        return None if group is None else f"{self.namespace}.{group}"

    def later_closed(self, client: Any) -> Any:
        self.opened.append(client)
        return client

    def close(self) -> None:
        for client in self.opened:
            client.close()
        self.admin.close()


class AlignedMemoryWorld(MemoryWorld):
    """In memory, read through the merge."""

    def source(self, *topics: str) -> Source:
        return AlignedSource(super().source(*topics), Wall())


class AlignedKafkaWorld(KafkaWorld):
    """On Kafka, read through the merge."""

    def source(self, *topics: str) -> Source:
        return AlignedSource(super().source(*topics), Wall())


class DumpWorld(MemoryWorld):
    """In memory, read from a dump of what is there when the source is made."""

    def source(self, *topics: str) -> Source:
        lines = [dumped(record) for topic in topics for record in self.log.records(topic)]
        records = [found for line in lines if isinstance(found := read_dumped(line), Record)]
        return DumpSource(records)


def worlds(request: pytest.FixtureRequest, namespace: str) -> Iterator[World]:
    """The world that a fixture's parameter names."""
    in_memory = {"memory": MemoryWorld, "aligned": AlignedMemoryWorld, "dump": DumpWorld}
    if request.param in in_memory:
        yield in_memory[request.param](namespace)
        return
    kind = {"kafka": KafkaWorld, "aligned-kafka": AlignedKafkaWorld}[request.param]
    kafka = kind(namespace, request.getfixturevalue("broker").bootstrap)
    yield kafka
    kafka.close()


@pytest.fixture(params=["memory", "kafka"])
def world(request: pytest.FixtureRequest, namespace: str) -> Iterator[World]:
    """Each test that asks for it runs once in memory and once on Kafka."""
    yield from worlds(request, namespace)


LIVE = ["memory", "kafka", "aligned", "aligned-kafka"]


@pytest.fixture(params=LIVE)
def live_world(request: pytest.FixtureRequest, namespace: str) -> Iterator[World]:
    """Every kind of source that follows a log."""
    yield from worlds(request, namespace)


@pytest.fixture(params=[*LIVE, "dump"])
def any_world(request: pytest.FixtureRequest, namespace: str) -> Iterator[World]:
    """Every kind of source, also one that knows nothing of markers, empty partitions and what comes later."""
    yield from worlds(request, namespace)


@pytest.fixture
def manifest() -> Manifest:
    """A manifest; use msgspec.structs.replace for another."""
    return Manifest(0, "0", "epoch", (), 1, Counts(), 0, 0, "c", "f", "i", "s")


class Drain:
    """Polls until nothing comes any more."""

    def __call__(self, source: Source, at_least: int = 0, within_s: float = 20) -> list[Record]:
        records: list[Record] = []
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            polled = source.poll(1000, 0.3)
            records += polled
            if not polled and len(records) >= at_least:
                return records
        raise AssertionError(f"only {len(records)} of {at_least} records within {within_s} s")


@pytest.fixture
def drain() -> Drain:
    """See Drain."""
    return Drain()


def outputs(topic: str, values: Sequence[str], key: str | None = None) -> list[Output]:
    """One record for each value."""
    return [Output(topic, (key or value).encode(), value.encode()) for value in values]


@pytest.fixture(name="outputs")
def outputs_fixture() -> Any:
    """See outputs."""
    return outputs
