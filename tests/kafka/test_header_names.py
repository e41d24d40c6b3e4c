"""A header name that is not UTF-8 neither stops a reader nor takes the record with it."""

from __future__ import annotations

from contextlib import closing

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from consumers.kafka import KafkaSource
from consumers.kafka_group import KafkaGroupSource
from pipeline.messages import Range, Record, TopicPartition
from pipeline.runtime.broker import Broker


class Raw(str):
    """A header name that kafka-python encodes as it is told, not as it should."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"caf\xe9"


@pytest.fixture
def topic(broker: Broker, namespace: str) -> str:
    name = f"{namespace}.events"
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}}, wait_for_metadata=True)
    return name


def publish(broker: Broker, topic: str, compression: str | None) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, compression_type=compression, linger_ms=100)
    sent = [
        producer.send(topic, b"before", b"k", [("a", b"1")]),
        producer.send(topic, b"odd", b"k", [("a", b"1"), (Raw("x"), b"2"), ("b", b"")]),
        producer.send(topic, b"after", b"k", [("é", b"3")]),
    ]
    for future in sent:
        future.get(10)
    producer.close()


def check(records: list[Record]) -> None:
    assert [(each.value, each.headers) for each in records] == [
        (b"before", (("a", b"1"),)),
        (b"odd", (("a", b"1"), ("caf\ufffd", b"2"), ("b", b""))),
        (b"after", (("é", b"3"),)),
    ]


def polled(source: KafkaSource | KafkaGroupSource) -> list[Record]:
    records: list[Record] = []
    for _ in range(50):
        records += source.poll(1, 0.5)
        if len(records) == 3:
            return records
    raise AssertionError(records)


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_the_record_and_its_neighbours_are_read(broker: Broker, topic: str, compression: str | None) -> None:
    publish(broker, topic, compression)
    with closing(KafkaSource(broker.bootstrap, [topic])) as source:
        source.seek({TopicPartition(topic, 0): 0})
        check(polled(source))
        assert source.positions() == {TopicPartition(topic, 0): 3}
        check(list(source.read([Range(topic, 0, 0, 3, 3, 0)])))


def test_a_group_reads_it_too(broker: Broker, topic: str, namespace: str) -> None:
    publish(broker, topic, None)
    with closing(KafkaGroupSource(broker.bootstrap, [topic], namespace)) as source:
        check(polled(source))
