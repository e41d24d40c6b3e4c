"""Records as lines of a file: one JSON object each, with topic, partition, offset, timestamp, key, value, headers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pipeline.messages import Manifest, Range, Record, TopicPartition
from pipeline.ports import LogGap, Positions

_record = msgspec.json.Decoder(Record)
_manifest = msgspec.json.Decoder(Manifest)
_encoder = msgspec.json.Encoder()


def dumped(record: Record) -> bytes:
    """One line; keys, values and header values are base64.

    >>> read_dumped(dumped(Record("t", 0, 7, 1, b"k", None))).offset
    7
    """
    return _encoder.encode(record) + b"\n"


def read_dumped(line: bytes) -> Record | Manifest:
    """A line of a dump: a record, or a manifest as it stands in the epochs topic. Raises ValueError."""
    try:
        return _record.decode(line)
    except msgspec.MsgspecError:
        pass
    try:
        return _manifest.decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(f"neither a dumped record nor a manifest: {error}") from None


def manifest_of(record: Record) -> Manifest:
    """The manifest in a record of the epochs topic."""
    return _manifest.decode(record.value or b"")


class DumpSource:
    """A log put together from dumped records: a `ports.Source` for replay.

    Markers are not dumped, nor is what compaction took: where a partition's
    records end early, or an offset between them is missing, only a manifest's
    count and checksum can tell. A record that two dumps hold counts once.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        found: dict[TopicPartition, dict[int, Record]] = {}
        for record in records:
            found.setdefault(TopicPartition(record.topic, record.partition), {})[record.offset] = record
        self._log = {tp: [held[offset] for offset in sorted(held)] for tp, held in found.items()}
        self._positions: dict[TopicPartition, int] = {}

    def partitions(self) -> list[TopicPartition]:
        """The partitions of which there is a record."""
        return sorted(self._log)

    def starts(self) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        return {tp: self._log[tp][0].offset for tp in self.partitions()}

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets."""
        self._positions = dict(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records`, partition by partition; never waits."""
        polled: list[Record] = []
        for tp, position in sorted(self._positions.items()):
            part = self._from(tp, position, max_records - len(polled))
            if part:
                polled += part
                self._positions[tp] = part[-1].offset + 1
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition."""
        return dict(self._positions)

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """One past the last record of each assigned partition."""
        return {tp: self._log[tp][-1].offset + 1 if tp in self._log else 0 for tp in self._positions}

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The records of these ranges; raises LogGap where its partition was not dumped at all."""
        for wanted in ranges:
            tp = TopicPartition(wanted.topic, wanted.partition)
            if tp not in self._log and wanted.records:
                raise LogGap(f"{tp.topic}-{tp.partition} is not in the files given")
            for record in self._from(tp, wanted.start, wanted.stop - wanted.start):
                if record.offset >= wanted.stop:
                    break
                yield record

    def close(self) -> None:
        """Nothing to let go of."""

    def _from(self, tp: TopicPartition, offset: int, limit: int) -> list[Record]:
        held = self._log.get(tp, [])
        first = bisect_left(held, offset, key=lambda record: record.offset)
        return held[first : first + max(limit, 0)]
