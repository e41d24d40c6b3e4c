"""Publishes single events, each acknowledged before the next word: for the page's clicks."""

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from consumers.kafka_client import BOOTSTRAP_TIMEOUT_MS, unreachable
from pipeline.messages import Event, Record, TopicPartition
from pipeline.ports import Decoder

ANSWER_S = 10


class EventPublisher:
    """One idempotent producer, made when the first event comes; from any thread."""

    def __init__(self, bootstrap: str, topic: str, decode: Decoder, options: Callable[[], Mapping[str, Any]]) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._decode = decode
        self._options = options
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def publish(self, value: bytes) -> tuple[TopicPartition, int]:
        """Where the event lies now. Raises Undecodable where it is none, ConnectionError where Kafka takes it not."""
        event = self._decode(Record(self._topic, 0, 0, 0, None, value))
        if not isinstance(event, Event):
            raise TypeError("the events topic holds events")
        try:
            future = self._made().send(self._topic, value, key=event.actor.encode())
            told = future.get(timeout=ANSWER_S)
        except KafkaError as error:
            self.close()
            raise unreachable(self._bootstrap, error, self._options(), self._topic) from error
        return TopicPartition(told.topic, told.partition), told.offset

    def close(self) -> None:
        """Let go of the producer; the next event makes another one."""
        with self._lock:
            producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaError):
                producer.close(timeout=0)

    def _made(self) -> KafkaProducer:
        with self._lock:
            if self._producer is None:
                self._producer = KafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    client_id="headrace-page",
                    enable_idempotence=True,
                    acks="all",
                    retry_backoff_ms=20,
                    delivery_timeout_ms=ANSWER_S * 1000,
                    request_timeout_ms=ANSWER_S * 500,
                    bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
                    metrics_enabled=False,
                    **self._options(),
                )
            return self._producer
