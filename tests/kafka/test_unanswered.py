"""A commit that gets no answer ends in doubt, not in silence: the process must go on to recovery by itself."""

from __future__ import annotations

import time

import pytest

from pipeline.messages import TopicPartition
from pipeline.ports import CommitUnknown
from pipeline.runtime.broker import Broker
from pipeline.settings import Kafka, Settings
from producers.kafka import ANSWER_S, KafkaSink
from producers.kafka_topics import create_topics

TIMEOUT_S = 1


@pytest.mark.timeout(120)
def test_positions_that_nobody_answers_end_in_doubt(broker: Broker, namespace: str) -> None:
    settings = Settings(namespace=namespace, kafka=Kafka(partitions=1))
    create_topics(broker.bootstrap, settings)
    read = {TopicPartition(settings.topic("events"), 0): 0}
    sink = KafkaSink(broker.bootstrap, namespace, group=namespace, transaction_timeout_s=TIMEOUT_S)
    sink.start()
    sink.commit([], None, read)
    broker.kill()
    try:
        began = time.monotonic()
        with pytest.raises(CommitUnknown):
            sink.commit([], None, read)
        assert time.monotonic() - began < TIMEOUT_S + ANSWER_S + 10
    finally:
        sink.close()
        broker.restart()
    successor = KafkaSink(broker.bootstrap, namespace, group=namespace, transaction_timeout_s=TIMEOUT_S)
    successor.start()
    successor.commit([], None, read)
    successor.close()
