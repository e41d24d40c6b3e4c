"""Header names that are not UTF-8: read with replacement characters, as Kafka's Java client reads them.

kafka-python 3.0.12 decodes names strictly. A record with another name makes
poll raise a RuntimeError each time it is called, so one producer's slip would
stop its readers for good.
"""

from __future__ import annotations

# kafka-python declares itself typed and is so in part.
# mypy: disable-error-code="no-untyped-call, no-any-return, misc"
from collections.abc import Iterator
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.record.default_records import DefaultRecordBatch


def tolerate_any_header_name(consumer: KafkaConsumer) -> None:
    """From now on `consumer` replaces what is not UTF-8 in header names by U+FFFD."""
    # An attribute of this one fetcher: the class, and with it other consumers of the process, stays as it is.
    consumer._fetcher.PartitionRecords = _PartitionRecords


class _Bytes(bytearray):
    """Slices of it decode with replacement characters."""

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        return _Bytes(found) if isinstance(key, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "replace")


class _Batch(DefaultRecordBatch):
    """A batch that reads a record again, leniently, where its header names are not UTF-8."""

    __slots__ = ()

    def _read_msg(self, *args: Any) -> Any:
        try:
            return super()._read_msg(*args)
        except UnicodeDecodeError:
            strict, self._buffer = self._buffer, _Bytes(self._buffer)
            try:
                return super()._read_msg(*args)
            finally:
                self._buffer = strict


class _Batches:
    """A fetch's batches, as `_Batch`."""

    def __init__(self, records: Any) -> None:
        self._records = records

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        if isinstance(batch, DefaultRecordBatch):
            batch.__class__ = _Batch
        return batch


class _PartitionRecords(Fetcher.PartitionRecords):
    def _unpack_records(self, tp: Any, records: Any, *args: Any) -> Iterator[Any]:
        return super()._unpack_records(tp, _Batches(records), *args)
