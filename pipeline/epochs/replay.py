"""Committed epochs done again from the log: by recovery, by a rewind, and by whoever checks an erasure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from msgspec.structs import replace

from pipeline.epochs.history import EPOCH, read_verified
from pipeline.epochs.poison import said
from pipeline.epochs.processor import Applied, Processor
from pipeline.epochs.rewinding import Named, Undone, left_out, parted
from pipeline.epochs.tail import Manifests
from pipeline.messages import Manifest, Output, Range, Record, TopicPartition
from pipeline.ports import ColdDamaged, LogGap, Source

log = logging.getLogger(__name__)

FORK = "state and log disagree"
GO_ON = "Go on without these events with --accept-gap."


class RecoveryRefused(RuntimeError):
    """The log, the snapshots and the settings do not fit together; going on would lose or double something."""


@dataclass(frozen=True)
class Progress:
    """How far a replay has come: epochs and events, of how many."""

    epochs: int
    of_epochs: int
    events: int
    of_events: int


@dataclass
class Replayed:
    """What became of a replay: what the log could not give, and how many events its last rewind newly left out."""

    missed: list[Range] = field(default_factory=list)
    left_out: int = 0


def gone(manifests: Manifests, starts: Mapping[TopicPartition, int]) -> tuple[Range, ...]:
    """What these manifests read and the log holds no more, by where its partitions begin: as few ranges as tell it."""
    found: dict[TopicPartition, list[Range]] = {}
    for manifest in manifests:
        for part in manifest.ranges if manifest.kind == EPOCH else ():
            tp = TopicPartition(part.topic, part.partition)
            stop = min(part.stop, starts.get(tp, part.stop))
            if part.records == 0 or stop <= part.start:
                continue
            of_partition = found.setdefault(tp, [])
            if of_partition and of_partition[-1].stop == part.start:
                last = of_partition.pop()
                part = replace(part, start=last.start)
            of_partition.append(replace(part, stop=stop, crc32c=0))
    return tuple(part for tp in sorted(found) for part in found[tp])


def named(ranges: Sequence[Range]) -> str:
    """For a person: topic-partition [from, to)."""
    return ", ".join(f"{part.topic}-{part.partition} [{part.start}, {part.stop})" for part in ranges)


def replay(
    processor: Processor,
    source: Source,
    manifests: Manifests,
    undone: Undone,
    *,
    accept_gap: bool,
    exact: bool,
    new: bool = False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_applied: Callable[[Manifest, Applied], None] = lambda manifest, applied: None,
) -> Replayed:
    """Do committed epochs again, those that a rewind took back without what it leaves out.

    With `exact` every digest must come out as its manifest has it; those of
    epochs that were taken back cannot, but that of the rewind can. With `new`
    the last manifest is a rewind that is yet to be committed, with the digest that comes out.
    """
    found, taken_back = Replayed(), _TakenBack(processor, undone)
    events, of_events = 0, events_in(manifests, processor.settings.topic("events"))
    on_progress(Progress(0, len(manifests), 0, of_events))
    for done, manifest in enumerate(manifests, 1):
        if manifest.kind == EPOCH:
            records, lacking = records_of(source, manifest, accept_gap)
            found.missed += lacking
            if any(part.topic == processor.settings.topic("users") for part in lacking):
                log.warning("epoch %d: erasures may be among what is lost: erase those users again", manifest.epoch)
            records = taken_back.kept(manifest, records)
            applied = _again(processor, manifest, records)
            taken_back.applied(manifest, applied.outputs)
            on_applied(manifest, applied)
            events += _events(manifest, processor.settings.topic("events"))
        if undone.by(manifest.epoch) is None and not (new and done == len(manifests)):
            if exact and not found.missed and processor.state_digest != manifest.state_digest:
                raise RecoveryRefused(
                    f"replaying epoch {manifest.epoch} gave state {processor.state_digest[:16]}, its manifest says "
                    f"{manifest.state_digest[:16]}: {FORK}"
                )
            processor.state_digest = manifest.state_digest
        if manifest.rewind is not None:
            found.left_out = taken_back.owe(manifest)
        on_progress(Progress(done, len(manifests), events, of_events))
    return found


def _again(processor: Processor, manifest: Manifest, records: Sequence[Record]) -> Applied:
    """An epoch's step; raises RecoveryRefused where it fails on what it was once done on, or is now read otherwise.

    After a gap or a rewind an event may count that was a duplicate or too late
    before, and be the first of its kind that the step fails on.
    """
    try:
        return processor.apply(
            manifest.epoch, records, manifest.clock, manifest.effort, poisoned=manifest.poisoned
        )
    except (ColdDamaged, OSError):
        raise
    except Exception as error:
        raise RecoveryRefused(
            f"epoch {manifest.epoch} cannot be learned again: {said(error)}. Nothing is lost: start a version that "
            f"can, or learn without the event that it fails on: headrace rewind --to {manifest.epoch - 1} --without …"
        ) from error


def events_in(manifests: Manifests, events_topic: str) -> int:
    """Records of the events topic that these manifests read."""
    return sum(_events(manifest, events_topic) for manifest in manifests)


def records_of(source: Source, manifest: Manifest, accept_gap: bool) -> tuple[Sequence[Record], list[Range]]:
    """What an epoch read, and the ranges of which the log lacks some and may: what is left of those is taken.

    Above all the erasures among it: an epoch is not passed over for what is missing beside them.
    """
    try:
        return read_verified(source, manifest.ranges), []
    except LogGap as error:
        if not accept_gap:
            raise RecoveryRefused(f"epoch {manifest.epoch} cannot be replayed: {error}. {GO_ON}") from error
        log.warning("accepted gap in epoch %d: %s", manifest.epoch, error)
    starts = source.starts()
    records: list[Record] = []
    missed: list[Range] = []
    for part in manifest.ranges:
        try:
            records += read_verified(source, [part])
        except LogGap:
            start = max(part.start, starts.get(TopicPartition(part.topic, part.partition), part.stop))
            left: list[Record] = []
            with suppress(LogGap):
                left += source.read([replace(part, start=start)]) if start < part.stop else ()
            missed.append(replace(part, records=max(part.records - len(left), 1), crc32c=0))
            records += left
    return records, missed


def _events(manifest: Manifest, events_topic: str) -> int:
    return sum(part.records for part in manifest.ranges if part.topic == events_topic)


class _TakenBack:
    """Follows a replay through epochs that rewinds took back, and tells the processor what is owed for them."""

    def __init__(self, processor: Processor, undone: Undone) -> None:
        self._processor = processor
        self._undone = undone
        self._named: dict[int, Named] = {}
        self._left_out = 0

    def kept(self, manifest: Manifest, records: Sequence[Record]) -> Sequence[Record]:
        """The records of an epoch without those left out."""
        epoch, undone = manifest.epoch, self._undone
        if undone.by(epoch) is None:
            return records
        processor = self._processor
        topic = processor.settings.topic("events")
        kept, out = parted(manifest, records, undone.without(epoch), processor.decode, topic)
        named = self._named[epoch] = Named(reached=manifest.watermark)
        own, earlier = undone.newest(epoch)
        for record, event in out:
            self._left_out += left_out(record, event, own) and not left_out(record, event, earlier)
            if event is not None:
                named.event(record, event)
        return kept

    def applied(self, manifest: Manifest, outputs: Sequence[Output]) -> None:
        """What it published."""
        if manifest.epoch in self._named:
            self._named[manifest.epoch].published(outputs, self._processor.settings)

    def owe(self, manifest: Manifest) -> int:
        """At a rewind: what was published of those whom it concerns is due again; how many events were left out."""
        assert manifest.rewind is not None
        concerned = Named()
        for epoch, named in self._named.items():
            if epoch > manifest.rewind.base:
                concerned.add(named)
        self._processor.owe(concerned, manifest.clock)
        return self._left_out
