"""Where a shard stands in its log: the chain of manifests, the positions after it, and how to replay a part of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.epochs.digest import START, chained_input, record_crc
from pipeline.messages import Manifest, Range, Record, TopicPartition
from pipeline.ports import LogGap, Source

EPOCH = "epoch"
CLAIM = "claim"
DIGEST_RESET = "digest-reset"
REWIND = "rewind"


@dataclass(frozen=True)
class Past:
    """What is to be remembered of a shard for ever: gaps accepted, records lost in them, rewinds, events left out."""

    gaps: int = 0
    lost: int = 0
    rewinds: int = 0
    left_out: int = 0

    def after(self, manifest: Manifest) -> Past:
        """With one more manifest."""
        unread = sum(part.stop - part.start for part in manifest.ranges) if manifest.kind == DIGEST_RESET else 0
        lost = unread + sum(part.records for part in manifest.missed)
        rewinds, left_out = (1, manifest.rewind.left_out) if manifest.rewind else (0, 0)
        return Past(self.gaps + (lost > 0), self.lost + lost, self.rewinds + rewinds, self.left_out + left_out)

    def __str__(self) -> str:
        """For a person; empty where there is nothing to tell."""
        told = []
        if self.gaps:
            told.append(f"{self.gaps} gaps accepted, {self.lost} records lost in them")
        if self.rewinds:
            told.append(f"{self.rewinds} rewinds, {self.left_out} events left out by them")
        return "; ".join(told)


@dataclass(frozen=True)
class Standing:
    """After a manifest: its number and offset in the epochs topic, both digests, where each partition was read to.

    `past` is what must be told for ever.
    """

    epoch: int = 0
    offset: int = -1
    input_digest: str = START
    state_digest: str = START
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    past: Past = Past()

    def after(self, manifest: Manifest, offset: int = -1) -> Standing:
        """Where one more manifest leads. Raises LogGap where it does not join on."""
        if manifest.epoch != self.epoch + 1:
            raise LogGap(f"manifest of epoch {manifest.epoch} follows that of epoch {self.epoch}: the log has a hole")
        positions = dict(self.positions)
        for begin in manifest.begins:
            positions.setdefault(TopicPartition(begin.topic, begin.partition), begin.at)
        for part in manifest.ranges:
            tp = TopicPartition(part.topic, part.partition)
            if tp in positions and positions[tp] != part.start:
                raise LogGap(
                    f"epoch {manifest.epoch} reads {part.topic}-{part.partition} from {part.start}, "
                    f"the one before it stopped at {positions[tp]}"
                )
            positions[tp] = part.stop
        past = self.past.after(manifest)
        return Standing(manifest.epoch, offset, manifest.input_digest, manifest.state_digest, positions, past)

    def header(self) -> dict[str, Any]:
        """For a snapshot's header."""
        positions = [[tp.topic, tp.partition, offset] for tp, offset in sorted(self.positions.items())]
        return {
            "epoch": self.epoch,
            "offset": self.offset,
            "input_digest": self.input_digest,
            "state_digest": self.state_digest,
            "positions": positions,
            "past": asdict(self.past),
        }

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Standing:
        """The inverse of `header`."""
        positions = {TopicPartition(t, p): offset for t, p, offset in header["positions"]}
        digests = header["input_digest"], header["state_digest"]
        return cls(header["epoch"], header["offset"], *digests, positions, Past(**header.get("past", {})))


def standing_after(manifests: Iterable[Manifest], start: Standing | None = None) -> Standing:
    """Where a chain of manifests leads from `start` (the beginning)."""
    standing = start or Standing()
    for manifest in manifests:
        standing = standing.after(manifest)
    return standing


def read_verified(source: Source, ranges: Sequence[Range]) -> list[Record]:
    """The records of a manifest's ranges; raises LogGap where they are not those that were read then."""
    records = list(source.read(ranges))
    by_partition: dict[TopicPartition, list[Record]] = {}
    for record in records:
        by_partition.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
    for part in ranges:
        found = by_partition.get(TopicPartition(part.topic, part.partition), [])
        if len(found) != part.records or record_crc(found) != part.crc32c:
            raise LogGap(
                f"{part.topic}-{part.partition} [{part.start}, {part.stop}): the log now holds {len(found)} records "
                f"with another checksum, the manifest names {part.records}"
            )
    return records


def verified_input(manifest: Manifest, before: str) -> str:
    """A manifest's chained input digest; raises LogGap where it does not follow from the one before and its ranges."""
    digest = chained_input(before, manifest.ranges) if manifest.kind == EPOCH else before
    if manifest.input_digest != digest:
        raise LogGap(f"manifest of epoch {manifest.epoch}: its input digest does not follow from its ranges")
    return digest


def verify_inputs(manifests: Iterable[Manifest], before: str = START) -> None:
    """`verified_input` of one manifest after the other."""
    digest = before
    for manifest in manifests:
        digest = verified_input(manifest, digest)
