"""Publishes a data set to a Kafka topic: in file order, keyed, every record acknowledged."""

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.producer.future import FutureRecordMetadata

from consumers.kafka_client import BOOTSTRAP_TIMEOUT_MS, unreachable
from producers.publisher import REPORTED, Line, PublishReport, Refusal, keyed, paced

ANSWER_S = 60
_IN_FLIGHT = 20_000
_PROGRESS_EVERY = 500


def publish(
    bootstrap: str,
    topic: str,
    lines: Iterable[bytes],
    key_field: str | None,
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> PublishReport:
    """Publish each JSON line as a record of `topic`, under the string in its `key_field`; see `publish_lines`."""
    return publish_lines(bootstrap, keyed(lines, key_field, topic), rate, on_progress, options)


def publish_lines(
    bootstrap: str,
    lines: Iterable[Line | Refusal],
    rate: float | None = None,
    on_progress: Callable[[int], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> PublishReport:
    """Publish lines to their topics; what was refused is counted, the rest goes on.

    Lines of a topic and key keep their order. `rate` is in lines a second;
    `on_progress` hears how many were published so far. Raises ConnectionError
    where Kafka cannot be reached or did not acknowledge a record, after which
    lines before it may or may not be there.
    """
    began = time.monotonic()
    refusals: list[Refusal] = []
    refused = published = 0
    topic = ""
    try:
        producer = KafkaProducer(**_producer_options(bootstrap, options))
        in_flight: deque[FutureRecordMetadata] = deque()
        try:
            for line in paced(lines, rate):
                if isinstance(line, Line):
                    topic = line.topic
                    in_flight.append(producer.send(topic, line.value, key=line.key))
                    published += 1
                    _settle(in_flight, _IN_FLIGHT)
                    if on_progress is not None and published % _PROGRESS_EVERY == 0:
                        on_progress(published)
                else:
                    refused += 1
                    refusals += [line] if refused <= REPORTED else []
            producer.flush()
            _settle(in_flight, 0)
        finally:
            # All is settled, or something failed and there is nothing left to wait for.
            _drop(producer)
    except KafkaError as error:
        raise unreachable(bootstrap, error, options or {}, topic) from error
    if on_progress is not None:
        on_progress(published)
    return PublishReport(published, refused, time.monotonic() - began, tuple(refusals))


def publish_tombstones(
    bootstrap: str, topic: str, keys: Sequence[str], options: Mapping[str, Any] | None = None
) -> list[int]:
    """Null values under these keys, acknowledged; gives their append times (ms). Raises ConnectionError."""
    try:
        producer = KafkaProducer(**_producer_options(bootstrap, options))
        try:
            sent = [producer.send(topic, None, key=key.encode()) for key in keys]
            return [future.get(timeout=ANSWER_S).timestamp for future in sent]
        finally:
            _drop(producer)
    except KafkaError as error:
        raise unreachable(bootstrap, error, options or {}, topic) from error


def _settle(in_flight: deque[FutureRecordMetadata], allowed: int) -> None:
    """Wait until at most `allowed` records are not acknowledged; raises what one of them failed with."""
    while in_flight and (len(in_flight) > allowed or in_flight[0].is_done):
        in_flight.popleft().get()


def _drop(producer: KafkaProducer) -> None:
    try:
        producer.close(timeout=0)
    except KafkaError:
        producer._sender.force_close()


def _producer_options(bootstrap: str, options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {
        "bootstrap_servers": bootstrap,
        "client_id": "headrace-publish",
        "enable_idempotence": True,
        "acks": "all",
        "linger_ms": 5,
        "batch_size": 256 << 10,
        "compression_type": "lz4",
        "max_request_size": 2 << 20,
        "retry_backoff_ms": 50,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "metrics_enabled": False,
        **(options or {}),
    }
