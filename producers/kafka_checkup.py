"""What a learner will need of Kafka, tried out: topics as they should be, a transaction, the broker's clock."""

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError

from consumers.kafka_client import BOOTSTRAP_TIMEOUT_MS, unreachable
from pipeline.settings import Settings
from producers.kafka_topics import administering, planned_topics, topic_warnings

ANSWER_S = 15


@dataclass(frozen=True)
class Topics:
    """Which of the planned topics are there, which are not, and what is wrong with those there are."""

    brokers: int
    there: tuple[str, ...]
    missing: tuple[str, ...]
    warnings: tuple[str, ...]


def look_at_topics(settings: Settings, options: Mapping[str, Any]) -> Topics:
    """Raises ConnectionError, which names the cause."""
    plans = planned_topics(settings)
    with administering(settings.kafka.bootstrap, options) as admin:
        brokers = len(admin.describe_cluster()["brokers"])
        there = tuple(sorted(set(admin.list_topics()) & plans.keys()))
        missing = tuple(sorted(plans.keys() - set(there)))
        return Topics(brokers, there, missing, tuple(topic_warnings(admin, {name: plans[name] for name in there})))


def try_transaction(settings: Settings, options: Mapping[str, Any]) -> tuple[float, float]:
    """A transaction with one record on the events' dead-letter topic, aborted: nobody who reads committed sees it.

    Seconds that it took, and how far the broker's clock is ahead of this
    machine's (s). Raises ConnectionError where the broker refuses.
    """
    bootstrap, topic = settings.kafka.bootstrap, f"{settings.topic('events')}.dlq"
    producer: KafkaProducer | None = None
    try:
        began = time.monotonic()
        producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=f"{settings.namespace}.learner.doctor-{uuid.uuid4().hex[:8]}",
            acks="all",
            delivery_timeout_ms=ANSWER_S * 1000,
            request_timeout_ms=ANSWER_S * 500,
            bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
            metrics_enabled=False,
            **options,
        )
        producer.init_transactions()
        producer.begin_transaction()
        sent = time.time()
        future = producer.send(topic, b"headrace doctor", key=b"doctor")
        producer.flush(timeout=ANSWER_S)
        stamped = future.get(timeout=ANSWER_S).timestamp / 1000
        answered = time.time()
        producer.abort_transaction()
        ahead = min(stamped - sent, 0.0) + max(stamped - answered, 0.0)
        return time.monotonic() - began, ahead
    except KafkaError as error:
        raise unreachable(bootstrap, error, options, topic) from error
    finally:
        if producer is not None:
            with suppress(KafkaError):
                producer.close(timeout=1)
