"""A transaction whose connections are lost or swallowed on the way goes on, or ends in doubt, and soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from proxy import Proxy

from pipeline.messages import Output, TopicPartition
from pipeline.ports import CommitUnknown
from pipeline.runtime.broker import Broker, start_broker
from pipeline.runtime.broker.ports import free_port
from pipeline.settings import Kafka, Settings
from producers.kafka import ANSWER_S, KafkaSink
from producers.kafka_topics import create_topics

SLACK_S = 15


@pytest.fixture(scope="module")
def detour() -> Iterator[tuple[Broker, Proxy]]:
    """A broker, and a proxy that clients can be made to go through."""
    with Proxy(free_port()) as proxy, start_broker("kafka", announce=print, properties=proxy.listener()) as broker:
        yield broker, proxy


class Committing(threading.Thread):
    """One transaction with a list and a position, and what becomes of it."""

    def __init__(self, sink: KafkaSink, settings: Settings, number: int) -> None:
        super().__init__()
        self._sink = sink
        self._outputs = [Output(settings.topic("recommendations"), f"list:{n}".encode(), b"{}") for n in range(50)]
        self._read = {TopicPartition(settings.topic("events"), 0): number}
        self.ended: str | None = None
        self.start()

    def run(self) -> None:
        try:
            self._sink.commit(self._outputs, None, self._read)
            self.ended = "committed"
        except CommitUnknown as error:
            self.ended = str(error)


def sink_over(proxy: Proxy, settings: Settings, timeout_s: float) -> KafkaSink:
    """Has committed once, by connections that are open."""
    sink = KafkaSink(proxy.bootstrap, settings.namespace, group=settings.namespace, transaction_timeout_s=timeout_s)
    sink.start()
    first = Committing(sink, settings, 0)
    first.join(60)
    assert first.ended == "committed"
    return sink


@pytest.fixture
def settings(detour: tuple[Broker, Proxy], namespace: str) -> Settings:
    made = Settings(namespace=namespace, kafka=Kafka(partitions=2))
    create_topics(detour[0].bootstrap, made)
    return made


@pytest.mark.parametrize("away_s", [0.1, 2.0])
def test_records_under_way_when_the_connection_is_lost_are_sent_again(
    detour: tuple[Broker, Proxy], settings: Settings, away_s: float
) -> None:
    _, proxy = detour
    sink = sink_over(proxy, settings, timeout_s=30)
    proxy.hold()
    committing = Committing(sink, settings, 1)
    time.sleep(0.5)
    proxy.refuse()
    time.sleep(away_s)
    proxy.calm()
    committing.join(SLACK_S)
    assert committing.ended == "committed"
    sink.close()


def test_records_that_nobody_acknowledges_end_in_doubt(detour: tuple[Broker, Proxy], settings: Settings) -> None:
    _, proxy = detour
    sink = sink_over(proxy, settings, timeout_s=1)
    proxy.hold()
    try:
        committing = Committing(sink, settings, 1)
        committing.join(1 + ANSWER_S + 8)  # sooner than a request's own time-out of 30 s
        assert committing.ended is not None
        assert committing.ended != "committed"
    finally:
        proxy.calm()
        sink.close()
