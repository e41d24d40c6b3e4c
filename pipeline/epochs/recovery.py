"""The one way to start: fence, read the manifests, claim, load the newest good snapshot, replay what came after.

A crash, an unknown commit result and an ordinary start all come through here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from pipeline.epochs.base import Base, base_of
from pipeline.epochs.digest import config_hash
from pipeline.epochs.history import CLAIM, DIGEST_RESET, EPOCH, REWIND, Standing, standing_after, verify_inputs
from pipeline.epochs.processor import Processor
from pipeline.epochs.replay import GO_ON, Progress, RecoveryRefused, gone, named, replay
from pipeline.epochs.rewinding import Undone
from pipeline.epochs.tail import Tail
from pipeline.messages import Begin, Counts, Manifest, Range, Rewind, TopicPartition
from pipeline.ports import Clock, LogGap, Sink, SnapshotStore, Source
from pipeline.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Who writes manifests: the process, and what its results depend on."""

    instance: str
    fingerprint: str


@dataclass(frozen=True)
class Recovered:
    """A processor as of the last committed manifest, and where that is.

    `anew`: only snapshots from now on lead to this state, digests start anew from there or epochs were taken back.
    """

    processor: Processor
    standing: Standing
    replayed: int
    anew: bool


def marker(
    kind: str,
    standing: Standing,
    settings: Settings,
    watermark: int,
    who: Identity,
    clock: int,
    skipped: tuple[Range, ...] = (),
    begins: tuple[Begin, ...] = (),
    missed: tuple[Range, ...] = (),
) -> Manifest:
    """A manifest that reads nothing: a claim, a rewind, or a digest reset, which may step over what the log lost."""
    return Manifest(
        epoch=standing.epoch + 1,
        instance=who.instance,
        kind=kind,
        ranges=skipped,
        seed=settings.seed,
        counts=Counts(),
        watermark=watermark,
        clock=clock,
        config_hash=config_hash(settings),
        fingerprint=who.fingerprint,
        input_digest=standing.input_digest,
        state_digest=standing.state_digest,
        begins=begins,
        missed=missed,
    )


def recover(
    source: Source,
    sink: Sink,
    snapshots: SnapshotStore,
    fresh: Callable[[], Processor],
    who: Identity,
    clock: Clock,
    *,
    accept_gap: bool = False,
    rewind: Rewind | None = None,
    on_standing: Callable[[Standing], None] = lambda standing: None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Recovered:
    """Bring a shard back to its last committed manifest; returns after the claim is committed.

    With `rewind` it is brought back to where that leads, and a manifest says
    so, unless this instance has committed one before. `on_standing` hears
    where the log stands before the claim.

    Raises Fenced (another instance is newer), RecoveryRefused, or what source and sink raise.
    """
    sink.start()
    base = base_of(sink, snapshots, fresh, rewind)
    manifests, settings = base.manifests, base.processor.settings
    if rewind is not None and any(m.kind == REWIND and m.instance == who.instance for m in manifests):
        rewind = None
    standing = _joined(base)
    on_standing(standing)
    starts = source.starts()
    begins = _begins(starts, standing)
    lost = _lost(starts, standing, begins)
    if not accept_gap:
        _refuse_gaps(lost, gone(manifests, starts))
    watermark = manifests.last.watermark if manifests.last else base.processor.ledger.watermark
    standing = _mark(CLAIM, sink, standing, settings, watermark, who, clock, begins=begins)
    if standing.epoch > 1:
        log.info("%s", base.told(clock.now_ms()))
    if past := str(standing.past):
        log.warning("so far in this log: %s", past)
    mark = None if rewind is None else replace(
        marker(REWIND, standing, settings, watermark, who, clock.now_ms()), rewind=rewind
    )  # fmt: skip
    return _led_on(source, sink, base, standing, mark, lost, who, clock, accept_gap, on_progress)


def _led_on(
    source: Source,
    sink: Sink,
    base: Base,
    standing: Standing,
    mark: Manifest | None,
    lost: tuple[Range, ...],
    who: Identity,
    clock: Clock,
    accept_gap: bool,
    on_progress: Callable[[Progress], None],
) -> Recovered:
    """From a base, with the shard claimed: the replay, then the new rewind (`mark`) and a reset where they are due."""
    processor, settings = base.processor, base.processor.settings
    manifests = base.manifests if mark is None else base.manifests.and_then(mark)
    undone = Undone(manifests)
    exact = _exact(base, manifests, undone, who)
    replayed = replay(
        processor, source, manifests, undone,
        accept_gap=accept_gap, exact=exact, new=mark is not None, on_progress=on_progress,
    )  # fmt: skip
    if mark is not None:
        standing = _commit_rewind(sink, standing, mark, processor, replayed.left_out)
    anew = bool(lost or replayed.missed) or not exact
    if anew:
        log.warning("software, hardware or settings changed, or a gap was accepted: digests start anew from here")
        reached = processor.ledger.watermark
        missed = tuple(replayed.missed)
        standing = _mark(DIGEST_RESET, sink, standing, settings, reached, who, clock, lost, missed=missed)
    return Recovered(processor, standing, len(base.manifests), anew or len(undone) > 0)


def _joined(base: Base) -> Standing:
    """Where the manifests after a base lead; raises RecoveryRefused where they do not follow from it."""
    try:
        standing = standing_after(base.manifests, base.standing)
        verify_inputs(base.manifests, base.standing.input_digest)
    except LogGap as error:
        raise RecoveryRefused(str(error)) from error
    return standing


def _refuse_gaps(lost: Sequence[Range], missing: Sequence[Range]) -> None:
    """Raises RecoveryRefused, with every range that the log holds no more: not read yet, or needed for the replay."""
    told = []
    if lost:
        told.append(f"events that were not read yet are gone: {named(lost)}")
    if missing:
        told.append(f"what past epochs read, and this start must read again, is gone: {named(missing)}")
    if told:
        raise RecoveryRefused(f"{'; '.join(told)}. {GO_ON}")


def _exact(base: Base, manifests: Tail, undone: Undone, who: Identity) -> bool:
    """Whether a replay must come to the digests that the manifests name, but for those that were taken back.

    Beyond a reset lies the state of a process that may have left out what the
    log could not give it then.
    """
    ours = (who.fingerprint, config_hash(base.processor.settings))
    if any((m.fingerprint, m.config_hash) != ours for m in base.known):
        return False
    for m in manifests:
        if undone.by(m.epoch) is not None:
            continue
        if m.kind == DIGEST_RESET or (m.kind in (EPOCH, REWIND) and (m.fingerprint, m.config_hash) != ours):
            return False
    return True


def _commit_rewind(sink: Sink, standing: Standing, mark: Manifest, processor: Processor, left_out: int) -> Standing:
    """The manifest of a rewind, now that it is known where it leads."""
    assert mark.rewind is not None
    watermark = processor.ledger.watermark
    made = replace(
        mark, state_digest=processor.state_digest, watermark=watermark, rewind=replace(mark.rewind, left_out=left_out)
    )
    return standing.after(made, sink.commit([], made, {}))


def _mark(
    kind: str,
    sink: Sink,
    standing: Standing,
    settings: Settings,
    watermark: int,
    who: Identity,
    clock: Clock,
    skipped: tuple[Range, ...] = (),
    begins: tuple[Begin, ...] = (),
    missed: tuple[Range, ...] = (),
) -> Standing:
    mark = marker(kind, standing, settings, watermark, who, clock.now_ms(), skipped, begins, missed)
    passed = {TopicPartition(part.topic, part.partition): part.stop for part in skipped}
    return standing.after(mark, sink.commit([], mark, passed))


def _begins(starts: Mapping[TopicPartition, int], standing: Standing) -> tuple[Begin, ...]:
    """Partitions that no manifest names: at the first start none has been missed, at others they were made since."""
    unknown = sorted(starts.keys() - standing.positions.keys())
    return tuple(Begin(tp.topic, tp.partition, 0 if standing.epoch else starts[tp]) for tp in unknown)


def _lost(starts: Mapping[TopicPartition, int], standing: Standing, begins: Sequence[Begin]) -> tuple[Range, ...]:
    """What retention took before it was read: from where the last manifest stopped to where the log begins."""
    reached = {TopicPartition(begin.topic, begin.partition): begin.at for begin in begins} | dict(standing.positions)
    behind = [(tp, at) for tp, at in sorted(reached.items()) if at < starts.get(tp, at)]
    return tuple(Range(tp.topic, tp.partition, at, starts[tp], 0, 0) for tp, at in behind)


def overtaken(sink: Sink, standing: Standing, instance: str) -> str | None:
    """Which other instance has claimed the shard since `standing`; None if none has: then it was a time-out."""
    for manifest in sink.manifests(max(standing.offset, 0)):
        if manifest.kind == CLAIM and manifest.epoch > standing.epoch and manifest.instance != instance:
            return manifest.instance
    return None
