"""A Source over Kafka topics, for the one who owns its partitions and keeps its own positions."""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return"
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import OffsetOutOfRangeError, UnknownTopicOrPartitionError

from consumers.kafka_client import (
    BOOTSTRAP_TIMEOUT_MS,
    from_kafka,
    log_ends,
    log_starts,
    name,
    new_consumer,
    reaching,
    to_kafka,
    to_record,
    wait_for_data,
)
from consumers.kafka_replay import KafkaReplay
from pipeline.messages import Range, Record, TopicPartition
from pipeline.ports import LogGap, Positions

FETCH_MAX_WAIT_MS = 25
# Forty answers a second that say nothing are most of what a learner without events takes of a processor.
QUIET_MAX_WAIT_MS = 1000
QUIET_S = 1.0
# A fetch is handed out partition by partition: the smaller, the less must be held to merge them by time.
PARTITION_FETCH_BYTES = 256 << 10


class KafkaSource:
    """Reads all partitions of `topics` by assignment: no group, no auto-commit. A `ports.Source`.

    Any method may raise ConnectionError: the broker cannot be reached or refused.
    After any error of `poll` close the source and make a new one.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        *,
        fetch_max_wait_ms: int = FETCH_MAX_WAIT_MS,
        partition_fetch_bytes: int = PARTITION_FETCH_BYTES,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Connects at once. `options` are further ones of kafka-python, see `kafka_connection`."""
        self._bootstrap = bootstrap
        self._topics = tuple(topics)
        self._options = dict(options or {})
        fetch = {"max_partition_fetch_bytes": partition_fetch_bytes}
        self._consumer = new_consumer(bootstrap, fetch_max_wait_ms, fetch | self._options)
        self._fetch_max_wait_ms = fetch_max_wait_ms
        self._read_at = time.monotonic()
        self._positions: dict[TopicPartition, int] | None = None
        self._admin: KafkaAdminClient | None = None
        self._replay: KafkaReplay | None = None

    def partitions(self) -> list[TopicPartition]:
        """The partitions that exist now, sorted; asks the broker each time, so call it now and then.

        Raises ConnectionError where a topic does not exist.
        """
        with reaching(self._bootstrap, self._options):
            topics = self._metadata().describe_topics(list(self._topics))
        if missing := [
            topic["name"] for topic in topics if topic.get("error_code") == UnknownTopicOrPartitionError.errno
        ]:
            raise ConnectionError(f"Kafka at {self._bootstrap} has no topic {missing[0]}: another Kafka, or emptied?")
        return sorted(
            TopicPartition(topic["name"], partition["partition_index"])
            for topic in topics
            for partition in topic["partitions"]
        )

    def cluster_id(self) -> str:
        """The id of the Kafka cluster: positions mean nothing in another."""
        with reaching(self._bootstrap, self._options):
            return str(self._metadata().describe_cluster()["cluster_id"])

    def starts(self) -> dict[TopicPartition, int]:
        """The first offset that each partition still holds."""
        with reaching(self._bootstrap, self._options):
            asked = [to_kafka(partition) for partition in self.partitions()]
            if not self._consumer.assignment():
                # It then asks for all topics' leaders at once, where it would else wait for each topic's by itself.
                self._consumer.assign(asked)
            found = log_starts(self._consumer, asked)
        return {from_kafka(partition): offset for partition, offset in found.items()}

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets, these partitions only."""
        self._positions = None
        self._consumer.assign([to_kafka(partition) for partition in sorted(positions)])
        for partition, offset in positions.items():
            self._consumer.seek(to_kafka(partition), offset)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records` next records; raises LogGap where a position is outside the log."""
        self._positions = None
        with reaching(self._bootstrap, self._options):
            try:
                polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
            except OffsetOutOfRangeError as error:
                raise self._gap(error) from None
        self._wait_longer_when_quiet(bool(polled))
        return [to_record(record) for records in polled.values() for record in records]

    def _wait_longer_when_quiet(self, read: bool) -> None:
        """Then nothing is buffered, every partition is asked for, and what comes to one is answered at once."""
        now = time.monotonic()
        if read:
            self._read_at = now
        longer = QUIET_MAX_WAIT_MS if now - self._read_at > QUIET_S else 0
        wait_for_data(self._consumer, max(self._fetch_max_wait_ms, longer))

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each assigned partition, past markers."""
        if self._positions is None:
            # Only a poll moves them, and asking costs as much as reading some twenty records.
            with reaching(self._bootstrap, self._options):
                self._positions = {from_kafka(tp): self._consumer.position(tp) for tp in self._consumer.assignment()}
        return dict(self._positions)

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """The end of each assigned partition: heard with the last fetch, or asked for before the first."""
        heard = {tp: self._consumer.highwater(tp) for tp in self._consumer.assignment()}
        if unheard := [tp for tp, offset in heard.items() if offset is None]:
            with reaching(self._bootstrap, self._options):
                heard |= log_ends(self._consumer, unheard)
        return {from_kafka(tp): offset for tp, offset in heard.items()}

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The ranges' records again, with a consumer of its own; raises LogGap for what the log lacks."""
        if self._replay is None:
            self._replay = KafkaReplay(self._bootstrap, self._options)
        yield from self._replay.read(ranges)

    def close(self) -> None:
        """Let go of all connections."""
        self._consumer.close(autocommit=False)
        if self._replay is not None:
            self._replay.close()
            self._replay = None
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def _metadata(self) -> KafkaAdminClient:
        if self._admin is None:
            self._admin = KafkaAdminClient(
                bootstrap_servers=self._bootstrap, **{"bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS} | self._options
            )
        return self._admin

    def _gap(self, error: OffsetOutOfRangeError) -> LogGap:
        positions: dict[Any, int] = error.args[0]
        starts = log_starts(self._consumer, positions)
        ends = log_ends(self._consumer, positions)
        return LogGap(
            "; ".join(
                f"{name(tp)}: position {at} is outside the log, which holds [{starts[tp]}, {ends[tp]})"
                for tp, at in sorted(positions.items())
            )
        )
