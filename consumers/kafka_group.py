"""A consumer-group reader of Kafka topics, for the stateless stage that scales by adding processes."""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return"
from collections.abc import Mapping, Sequence
from typing import Any

from kafka import ConsumerRebalanceListener
from kafka import TopicPartition as KafkaPartition
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from consumers.kafka import FETCH_MAX_WAIT_MS
from consumers.kafka_client import from_kafka, new_consumer, reaching, to_record
from pipeline.messages import Record, TopicPartition

SESSION_TIMEOUT_MS = 10_000
"""A member that was killed keeps its partitions for so long; kafka-python's default is 45 s."""


class _Owned(ConsumerRebalanceListener):
    """The partitions that the group has given to this member."""

    def __init__(self) -> None:
        self.partitions: set[KafkaPartition] = set()

    def on_partitions_revoked(self, revoked: Sequence[KafkaPartition]) -> None:
        self.partitions -= set(revoked)

    def on_partitions_assigned(self, assigned: Sequence[KafkaPartition]) -> None:
        self.partitions |= set(assigned)


class KafkaGroupSource:
    """Reads its share of `topics` as a member of `group`; starts at the beginning where nothing is committed.

    Partitions change hands within `poll` only. What earlier polls gave and was
    not committed comes again after a change, here or elsewhere: commit what
    one poll gave, with `positions` and `group_metadata`, before the next.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[str],
        group: str,
        *,
        fetch_max_wait_ms: int = FETCH_MAX_WAIT_MS,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Connects at once and joins the group at the first poll."""
        self._bootstrap = bootstrap
        self._options = dict(options or {})
        self._owned = _Owned()
        membership = {"group_id": group, "auto_offset_reset": "earliest"}
        self._consumer = new_consumer(bootstrap, fetch_max_wait_ms, {**self._options, **membership})
        with reaching(bootstrap, self._options):
            self._consumer.subscribe(topics=list(topics), listener=self._owned)

    def partitions(self) -> list[TopicPartition]:
        """The partitions that are this member's now, sorted."""
        return sorted(from_kafka(partition) for partition in self._mine())

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records` next records of the partitions owned; [] after `timeout_s` without any."""
        with reaching(self._bootstrap, self._options):
            polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
        return [to_record(record) for records in polled.values() for record in records]

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each owned partition, past markers; none of a partition revoked."""
        found = {}
        with reaching(self._bootstrap, self._options):
            for partition in self._mine():
                offset = self._consumer.position(partition, timeout_ms=1000)
                if offset is not None:
                    found[from_kafka(partition)] = int(offset)
        return found

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """The end of each owned partition, as last heard."""
        heard = {from_kafka(tp): self._consumer.highwater(tp) for tp in self._mine()}
        return {partition: offset for partition, offset in heard.items() if offset is not None}

    def group_metadata(self) -> ConsumerGroupMetadata:
        """The membership to commit under: the broker refuses the commit of a member that was voted out."""
        return self._consumer.group_metadata()

    def rewind(self) -> None:
        """Go back to what is committed, after a transaction that did not commit."""
        with reaching(self._bootstrap, self._options):
            for partition in self._mine():
                committed: OffsetAndMetadata | int | None = self._consumer.committed(partition)
                if committed is None:
                    self._consumer.seek_to_beginning(partition)
                else:
                    self._consumer.seek(partition, getattr(committed, "offset", committed))

    def close(self) -> None:
        """Leave the group and let go of the connection; commits nothing."""
        self._consumer.close(autocommit=False, timeout_ms=5000)

    def _mine(self) -> set[KafkaPartition]:
        return self._owned.partitions & self._consumer.assignment()
