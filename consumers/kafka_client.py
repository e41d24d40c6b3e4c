"""What every Kafka reader here shares: options, translation of records and of errors."""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return"
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition
from kafka.consumer.fetcher import ConsumerRecord
from kafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LogTruncationError,
    NodeNotReadyError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)

from consumers.kafka_headers import tolerate_any_header_name
from consumers.kafka_probe import why_unreachable
from pipeline.messages import Record, TopicPartition
from pipeline.ports import LogGap

REQUEST_TIMEOUT_MS = 30_000
BOOTSTRAP_TIMEOUT_MS = 5_000
BOUNDS_ATTEMPTS = 20
BOUNDS_PAUSE_S = 0.1
# What kafka-python ends with where no connection can be made: often a timeout, whatever the cause.
_CONNECTING = (
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
    IllegalSaslStateError,
)


def wait_for_data(consumer: KafkaConsumer, at_most_ms: int) -> None:
    """How long the broker may hold the next fetches while there is nothing to read; kafka-python has no call for it."""
    consumer._fetcher.config["fetch_max_wait_ms"] = at_most_ms


def new_consumer(bootstrap: str, fetch_max_wait_ms: int, extra: Mapping[str, Any] | None = None) -> KafkaConsumer:
    """A consumer that sees committed records only and never moves or commits by itself. Connects at once.

    A fetch that waits at the broker does not learn of partitions that were
    still buffered when it was sent: a short `fetch_max_wait_ms` bounds what
    that costs in latency. Raises ConnectionError.
    """
    options = {
        "bootstrap_servers": bootstrap,
        "client_id": "headrace",
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        "allow_auto_create_topics": False,
        "fetch_max_wait_ms": fetch_max_wait_ms,
        "fetch_min_bytes": 1,
        "max_partition_fetch_bytes": 4 << 20,
        "request_timeout_ms": REQUEST_TIMEOUT_MS,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "retry_backoff_ms": 10,  # what a first question about a topic waits for its metadata
        "reconnect_backoff_max_ms": 1000,
        "metrics_enabled": False,
        **(extra or {}),
    }
    with reaching(bootstrap, options):
        consumer = KafkaConsumer(**options)
    tolerate_any_header_name(consumer)
    return consumer


class NoAnswer(ConnectionError):
    """Nobody answers at any of the addresses."""


@contextmanager
def reaching(bootstrap: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn what kafka-python raises into a LogGap or a ConnectionError with one line of text.

    `options` are those of the connection, with which its cause is looked for.
    """
    try:
        yield
    except OffsetOutOfRangeError as error:
        raise LogGap("; ".join(f"{name(tp)}: position {at}" for tp, at in _offsets(error))) from error
    except LogTruncationError as error:
        raise LogGap(f"the log was cut below positions already read: {error}") from error
    except KafkaError as error:
        raise unreachable(bootstrap, error, options) from error


def unreachable(bootstrap: str, error: KafkaError, options: Mapping[str, Any], what: str = "") -> ConnectionError:
    """What Kafka said, or why it says nothing, in one line; `what` names the topic or the like that it is about."""
    kind = type(error).__name__
    if isinstance(error, _CONNECTING) and (cause := why_unreachable(bootstrap, options)):
        return ConnectionError(f"Kafka at {cause}")
    said = str(error).removeprefix(f"{kind}: ")
    if said.startswith("Unable to bootstrap"):
        return NoAnswer(f"Kafka at {bootstrap} does not answer; kafka.bootstrap and --bootstrap say where it is")
    return ConnectionError(f"Kafka at {bootstrap}: {f'{what}: ' if what else ''}{kind}: {said}")


def log_starts(consumer: KafkaConsumer, partitions: Iterable[KafkaPartition]) -> dict[KafkaPartition, int]:
    """The first offset that each partition holds."""
    return _bounds(consumer.beginning_offsets, partitions)


def log_ends(consumer: KafkaConsumer, partitions: Iterable[KafkaPartition]) -> dict[KafkaPartition, int]:
    """The last stable offset of each partition, as a read_committed consumer sees it."""
    return _bounds(consumer.end_offsets, partitions)


def _bounds(
    ask: Callable[[list[KafkaPartition]], dict[KafkaPartition, int]], partitions: Iterable[KafkaPartition]
) -> dict[KafkaPartition, int]:
    """kafka-python answers for a topic at a time: for several, of which it does not know all, it raises KeyError."""
    by_topic: dict[str, list[KafkaPartition]] = {}
    for partition in sorted(partitions):
        by_topic.setdefault(partition.topic, []).append(partition)
    found: dict[KafkaPartition, int] = {}
    for asked in by_topic.values():
        for attempt in range(BOUNDS_ATTEMPTS):
            try:
                found |= ask(asked)
                break
            except KeyError as error:
                if attempt == BOUNDS_ATTEMPTS - 1:
                    raise KafkaConnectionError(f"no answer about {error}") from error
                time.sleep(BOUNDS_PAUSE_S)
    return found


def _offsets(error: OffsetOutOfRangeError) -> list[tuple[KafkaPartition, int]]:
    return sorted(error.args[0].items()) if error.args and isinstance(error.args[0], dict) else []


def name(partition: KafkaPartition | TopicPartition) -> str:
    """How messages to people name a partition: topic-number."""
    return f"{partition.topic}-{partition.partition}"


def to_kafka(partition: TopicPartition) -> KafkaPartition:
    """Ours into kafka-python's."""
    return KafkaPartition(partition.topic, partition.partition)


def from_kafka(partition: KafkaPartition) -> TopicPartition:
    """kafka-python's into ours."""
    return TopicPartition(partition.topic, partition.partition)


def to_record(record: ConsumerRecord) -> Record:
    """A consumed record as ours; a header without a value gets an empty one."""
    headers = tuple((key, value or b"") for key, value in record.headers) if record.headers else ()
    return Record(record.topic, record.partition, record.offset, record.timestamp, record.key, record.value, headers)
