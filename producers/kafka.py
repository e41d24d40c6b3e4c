"""A Sink over Kafka: one transaction per epoch, and no doubt left unspoken.

What kafka-python 3.0.12 really does, read in its source, and what follows:

- A batch that cannot be delivered within delivery_timeout_ms fails with KafkaTimeoutError, which counts as
  retriable: the transaction's state does not change, and EndTxn(commit) goes out without the batch. So
  every record's future is checked before the commit is begun, and delivery_timeout_ms exceeds the
  transaction's own timeout, so that the coordinator gives up first. (An expired batch that was being
  retried is worse: the transactional producer raises IllegalStateError inside its thread, and the batch's
  records stay failed.)
- OutOfOrderSequence, UnknownProducerId and InvalidProducerEpoch on a batch bump the producer's epoch in the
  background: the coordinator aborts the transaction, the client forgets its partitions and goes READY. An
  EndTxn that is dequeued after that finds no transaction started and reports success, for nothing. Checked
  futures find this too: the batch that caused the bump has failed. No batch is in flight when the commit
  begins.
- A fenced producer learns it from AddPartitionsToTxn, AddOffsetsToTxn, TxnOffsetCommit or EndTxn as
  ProducerFenced, from a batch as InvalidProducerEpoch. The coordinator gives the same answers to a producer
  whose transaction it timed out: `Fenced` says that this producer's time is over, not that somebody else is
  there.
- The bump of a fenced producer is refused as ProducerFenced by brokers from 2.7 on. Older ones answer
  InvalidProducerEpoch, whereupon kafka-python initialises anew and fences its own successor: older brokers
  cannot be used.
- abort_transaction after any of this acts on a state that may no longer be the coordinator's. So a sink is
  never used after a failure; its successor's init_transactions aborts what was left open, and waits until
  that is done.
- After a transaction, the next AddPartitionsToTxn is answered ConcurrentTransactions until the markers of
  the last are written; each such answer sleeps retry_backoff_ms, 100 by default: here 5.
- send_offsets_to_transaction and commit_transaction wait without limit; after a crash of the broker
  send_offsets_to_transaction was seen to wait for ever. So both are waited for until the coordinator must have
  ended the transaction one way or the other: then the result is unknown, and recovery finds out. A late EndTxn
  of the producer left behind is fenced by its successor.
- After a lost connection the sender can sleep until a batch expires, though its records could be sent again:
  flush() was seen to wait for delivery_timeout_ms. Called anew it wakes the sender, so it is given little time,
  and again, until the coordinator must have given the transaction up.
- close() flushes first, and raises if that takes longer than its timeout, leaving the thread running.
"""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return"
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from kafka import KafkaConsumer, KafkaProducer
from kafka import TopicPartition as KafkaPartition
from kafka.errors import InvalidProducerEpochError, KafkaError, KafkaTimeoutError, ProducerFencedError
from kafka.producer.future import FutureRecordMetadata
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from consumers.kafka_client import BOOTSTRAP_TIMEOUT_MS, unreachable
from consumers.partitioning import partition_of
from pipeline.messages import MAX_MESSAGE_BYTES, Manifest, Output, encode
from pipeline.ports import CommitUnknown, Fenced, LogGap, Positions

MAX_REQUEST_BYTES = MAX_MESSAGE_BYTES + (256 << 10)
ANSWER_S = 15.0
"""The coordinator looks for transactions past their timeout every 10 s."""
FLUSH_S = 0.5
_FENCING = (ProducerFencedError, InvalidProducerEpochError)


class KafkaSink:
    """Writes in transactions under `transactional_id`. A `ports.Sink`.

    Manifests go to partition `epochs_partition` of `epochs_topic` (None: this
    sink commits no manifests). Positions are committed for `group` (None: not
    at all), under the membership that `group_metadata` gives where there is one.
    """

    def __init__(
        self,
        bootstrap: str,
        transactional_id: str,
        epochs_topic: str | None = None,
        epochs_partition: int = 0,
        group: str | None = None,
        transaction_timeout_s: float = 30,
        group_metadata: Callable[[], ConsumerGroupMetadata] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Connects to nothing yet: that is `start`. `options` are further ones of kafka-python."""
        self._bootstrap = bootstrap
        self._id = transactional_id
        self._epochs = None if epochs_topic is None else KafkaPartition(epochs_topic, epochs_partition)
        self._group = group
        self._timeout_ms = round(transaction_timeout_s * 1000)
        self._group_metadata = group_metadata
        self._options = dict(options or {})
        self._producer: KafkaProducer | None = None

    def start(self) -> None:
        """Take over the transactional id; what a predecessor left open is aborted when this returns.

        Raises ConnectionError if Kafka cannot be reached, Fenced if somebody took over meanwhile.
        """
        try:
            self._producer = KafkaProducer(**self._producer_options())
            self._producer.init_transactions()
        except _FENCING as error:
            raise Fenced(f"{self._id}: {error}") from error
        except KafkaError as error:
            raise unreachable(self._bootstrap, error, self._options) from error

    def manifests(self, start: int = 0) -> Iterator[Manifest]:
        """The committed manifests from offset `start`, oldest first, up to the end as it is when the reading starts.

        Raises LogGap where a record is no manifest.
        """
        if self._epochs is None:
            return
        try:
            consumer = KafkaConsumer(**self._consumer_options())
            try:
                yield from self._read_manifests(consumer, self._epochs, start)
            finally:
                consumer.close(autocommit=False)
        except KafkaError as error:
            raise unreachable(self._bootstrap, error, self._options) from error

    def commit(self, outputs: Sequence[Output], manifest: Manifest | None, positions: Positions) -> int:
        """One transaction; returns when all of it is committed. Raises Fenced or CommitUnknown, for good."""
        at = -1
        producer = self._started()
        with self._doubt():
            producer.begin_transaction()
            futures = [self._send(producer, output) for output in outputs]
            if manifest is not None:
                futures.append(self._send_manifest(producer, manifest))
            # While the records are on their way: a sixth of a commit's time is saved.
            self._within_limit(lambda: self._send_positions(producer, positions))
            self._flush(producer)
            for future in futures:
                at = int(future.get(timeout=0).offset)
            self._within_limit(producer.commit_transaction)
        return at if manifest is not None else -1

    def close(self) -> None:
        """Let go at once; an open transaction is left to be fenced."""
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=0)
        except KafkaTimeoutError:
            # Batches are still on their way, and the public API would wait for them.
            producer._sender.force_close()

    def _consumer_options(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self._bootstrap,
            "isolation_level": "read_committed",
            "enable_auto_commit": False,
            "auto_offset_reset": "none",
            "max_partition_fetch_bytes": 8 << 20,
            "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
            "metrics_enabled": False,
            **self._options,
        }

    def _producer_options(self) -> dict[str, Any]:
        return {
            "bootstrap_servers": self._bootstrap,
            "client_id": f"headrace-{self._id}",
            "transactional_id": self._id,
            "enable_idempotence": True,
            "acks": "all",
            "transaction_timeout_ms": self._timeout_ms,
            "delivery_timeout_ms": self._timeout_ms * 2 + 60_000,
            "retry_backoff_ms": 5,
            "reconnect_backoff_max_ms": 1000,
            "linger_ms": 0,
            "compression_type": "lz4",
            "batch_size": 128 << 10,
            "max_request_size": MAX_REQUEST_BYTES,
            "metrics_enabled": False,
            "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
            **self._options,
        }

    def _flush(self, producer: KafkaProducer) -> None:
        """Wait until each record is acknowledged or has failed; each turn wakes the client's sender.

        Raises CommitUnknown where that takes longer than the coordinator waits for the transaction.
        """
        deadline = time.monotonic() + self._limit_s
        while True:
            try:
                producer.flush(timeout=FLUSH_S)
                return
            except KafkaTimeoutError:
                if time.monotonic() > deadline:
                    raise CommitUnknown(f"{self._id}: records are not acknowledged") from None

    @property
    def _limit_s(self) -> float:
        """By then the coordinator has ended the transaction one way or the other."""
        return self._timeout_ms / 1000 + ANSWER_S

    def _within_limit(self, request: Callable[[], None]) -> None:
        """Make a request that may never return; by the limit the coordinator has given the transaction up.

        Raises CommitUnknown then, and leaves the thread that waits behind.
        """
        failures: list[BaseException] = []

        def make() -> None:
            try:
                request()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=make, name="transaction", daemon=True)
        thread.start()
        thread.join(self._limit_s)
        if thread.is_alive():
            raise CommitUnknown(f"{self._id}: no answer from the transaction's coordinator")
        if failures:
            raise failures[0]

    @contextmanager
    def _doubt(self) -> Iterator[None]:
        try:
            yield
        except _FENCING as error:
            raise Fenced(f"{self._id}: {type(error).__name__}: {error}") from error
        except (KafkaError, OSError, ValueError, TypeError) as error:
            causes = [error, error.__cause__, *error.args]
            if any(isinstance(cause, _FENCING) for cause in causes):
                raise Fenced(f"{self._id}: {error}") from error
            raise CommitUnknown(f"{self._id}: {type(error).__name__}: {error}") from error

    def _send(self, producer: KafkaProducer, output: Output) -> FutureRecordMetadata:
        partition = None
        if output.partition_key is not None:
            partition = partition_of(output.partition_key, len(producer.partitions_for(output.topic)))
        return producer.send(
            output.topic, output.value, key=output.key, headers=list(output.headers), partition=partition
        )

    def _send_manifest(self, producer: KafkaProducer, manifest: Manifest) -> FutureRecordMetadata:
        if self._epochs is None:
            raise ValueError("a manifest needs an epochs topic")
        topic, partition = self._epochs
        return producer.send(topic, encode(manifest), key=manifest.instance.encode(), partition=partition)

    def _send_positions(self, producer: KafkaProducer, positions: Positions) -> None:
        membership = self._group if self._group_metadata is None else self._group_metadata()
        if membership is None or not positions:
            return
        offsets = {
            KafkaPartition(partition.topic, partition.partition): OffsetAndMetadata(offset, "", -1)
            for partition, offset in positions.items()
        }
        producer.send_offsets_to_transaction(offsets, membership)

    def _read_manifests(self, consumer: KafkaConsumer, epochs: KafkaPartition, start: int) -> Iterator[Manifest]:
        decode = msgspec.json.Decoder(Manifest).decode
        consumer.assign([epochs])
        stop = consumer.end_offsets([epochs])[epochs]
        consumer.seek(epochs, min(max(consumer.beginning_offsets([epochs])[epochs], start), stop))
        while consumer.position(epochs) < stop:
            for record in consumer.poll(timeout_ms=500, max_records=1000).get(epochs, ()):
                if record.offset >= stop:
                    return
                try:
                    yield decode(record.value or b"")
                except msgspec.DecodeError as error:
                    raise LogGap(f"{epochs.topic}-{epochs.partition} offset {record.offset}: {error}") from None

    def _started(self) -> KafkaProducer:
        if self._producer is None:
            raise RuntimeError("start() must come first")
        return self._producer
