"""Ranges can be read again however much lies behind them: a partition once read ahead of must not be lost sight of."""

from __future__ import annotations

from kafka import KafkaProducer

from consumers.kafka import KafkaSource
from pipeline.messages import Range
from pipeline.runtime.broker import Broker
from pipeline.settings import Kafka, Settings
from producers.kafka_topics import create_topics

LONG, SHORT = 5_000, 500


def test_ranges_before_a_long_backlog_are_read_whole(broker: Broker, namespace: str) -> None:
    settings = Settings(namespace=namespace, kafka=Kafka(partitions=2))
    create_topics(broker.bootstrap, settings)
    events, users = settings.topic("events"), settings.topic("users")
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, linger_ms=5)
    for partition, backlog in ((0, LONG), (1, SHORT)):
        for number in range(backlog):
            producer.send(events, b"%d" % number, partition=partition)
    producer.send(users, b"u", key=b"u", partition=0)
    producer.flush()
    producer.close()

    def part(topic: str, partition: int, start: int, stop: int) -> Range:
        return Range(topic, partition, start, stop, stop - start, 0)

    source = KafkaSource(broker.bootstrap, [events, users])
    try:
        for start in range(0, 300, 20):
            ranges = [part(events, 0, start, start + 20), part(events, 1, start, start + 20)]
            if start == 100:
                ranges.append(part(users, 0, 0, 1))
            found = [(record.topic, record.partition, record.offset) for record in source.read(ranges)]
            assert found == [(r.topic, r.partition, at) for r in ranges for at in range(r.start, r.stop)]
    finally:
        source.close()
