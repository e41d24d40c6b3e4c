"""Records as lines of a file: one JSON object each, with topic, partition, offset, timestamp, key, value, headers."""

from __future__ import annotations

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
    """A log put together from dumped records: a `ports.Source` for replay."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._log: dict[TopicPartition, dict[int, Record]] = {}
        self._positions: dict[TopicPartition, int] = {}
        for record in records:
            self._log.setdefault(TopicPartition(record.topic, record.partition), {})[record.offset] = record

    def partitions(self) -> list[TopicPartition]:
        """The partitions of which there is a record."""
        return sorted(self._log)

    def starts(self) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        return {tp: min(held) for tp, held in self._log.items()}

    def seek(self, positions: Positions) -> None:
        """Read on from these offsets."""
        self._positions = dict(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Record]:
        """At most `max_records`, partition by partition."""
        polled: list[Record] = []
        for tp, position in sorted(self._positions.items()):
            offsets = sorted(o for o in self._log.get(tp, {}) if o >= position)[: max_records - len(polled)]
            polled += [self._log[tp][offset] for offset in offsets]
            if offsets:
                self._positions[tp] = offsets[-1] + 1
        return polled

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition."""
        return dict(self._positions)

    def high_watermarks(self) -> dict[TopicPartition, int]:
        """One past the last offset of each partition."""
        return {tp: max(held) + 1 for tp, held in self._log.items()}

    def read(self, ranges: Sequence[Range]) -> Iterator[Record]:
        """The records of these ranges; raises LogGap where none of a range's partition was dumped."""
        for wanted in ranges:
            held = self._log.get(TopicPartition(wanted.topic, wanted.partition))
            if held is None:
                if wanted.records == 0:
                    continue
                raise LogGap(f"{wanted.topic}-{wanted.partition} is not in the files given")
            for offset in range(wanted.start, wanted.stop):
                if offset in held:
                    yield held[offset]

    def close(self) -> None:
        """Nothing to let go of."""
