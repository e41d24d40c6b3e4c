"""The one way to start: fence, read the manifests, claim, load the newest good snapshot, replay what came after.

A crash, an unknown commit result and an ordinary start all come through here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline.epochs.digest import config_hash
from pipeline.epochs.history import EPOCH, Standing, read_verified, verified_input
from pipeline.epochs.processor import Processor
from pipeline.messages import Begin, Counts, Manifest, Range, Record, TopicPartition
from pipeline.ports import Clock, LogGap, Sink, SnapshotDamaged, SnapshotStore, SnapshotTooNew, Source
from pipeline.settings import Settings

log = logging.getLogger(__name__)

CLAIM = "claim"
DIGEST_RESET = "digest-reset"
FORK = "state and log disagree"
GO_ON = "Go on without these events with --accept-gap."


class RecoveryRefused(RuntimeError):
    """The log, the snapshots and the settings do not fit together; going on would lose or double something."""


@dataclass(frozen=True)
class Identity:
    """Who writes manifests: the process, and what its results depend on."""

    instance: str
    fingerprint: str


@dataclass(frozen=True)
class Recovered:
    """A processor as of the last committed manifest, and where that is.

    `anew`: digests start anew from there, so only snapshots from now on lead to this state.
    """

    processor: Processor
    standing: Standing
    replayed: int
    anew: bool


@dataclass(frozen=True)
class _Tail:
    """Where the manifests after a snapshot lead, and whether replaying them must give their digests."""

    standing: Standing
    watermark: int
    exact: bool


def marker(
    kind: str,
    standing: Standing,
    settings: Settings,
    watermark: int,
    who: Identity,
    clock: int,
    skipped: tuple[Range, ...] = (),
    begins: tuple[Begin, ...] = (),
) -> Manifest:
    """A manifest that reads nothing: a claim, or a digest reset, which may step over ranges that the log has lost."""
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
    on_standing: Callable[[Standing], None] = lambda standing: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Recovered:
    """Bring a shard back to its last committed manifest; returns after the claim is committed.

    `on_standing` hears where the log stands before the claim.

    Raises Fenced (another instance is newer), RecoveryRefused, or what source and sink raise.
    """
    sink.start()
    processor, base, known = _base(sink, snapshots, fresh)
    ours = (who.fingerprint, config_hash(processor.settings))
    try:
        tail = _surveyed(_after(sink, base), base, known, ours, processor.ledger.watermark)
    except LogGap as error:
        raise RecoveryRefused(str(error)) from error
    standing = tail.standing
    on_standing(standing)
    starts = source.starts()
    begins = _begins(starts, standing)
    lost = _lost(starts, standing, begins)
    if lost and not accept_gap:
        raise RecoveryRefused(f"events that were not read yet are gone: {_named(lost)}. {GO_ON}")
    standing = _mark(CLAIM, sink, standing, processor.settings, tail.watermark, who, clock, begins=begins)
    count = tail.standing.epoch - base.epoch
    if standing.epoch > 1:
        log.info("starting from %s, then %d epochs to replay", _snapshot_name(base.epoch), count)
    again = islice(_after(sink, base), count)
    whole = _replay(processor, source, again, count, accept_gap, tail.exact, on_progress)
    anew = bool(lost) or not (tail.exact and whole)
    if anew:
        log.warning("software, hardware or settings changed, or a gap was accepted: digests start anew from here")
        reached = processor.ledger.watermark
        standing = _mark(DIGEST_RESET, sink, standing, processor.settings, reached, who, clock, lost)
    return Recovered(processor, standing, count, anew)


def _after(sink: Sink, base: Standing) -> Iterator[Manifest]:
    """The manifests after a base, one by one: there may be more of them than memory should hold."""
    manifests = sink.manifests(max(base.offset, 0))
    return islice(manifests, 1, None) if base.epoch else manifests


def _surveyed(
    manifests: Iterable[Manifest], base: Standing, known: Sequence[Manifest], ours: tuple[str, str], watermark: int
) -> _Tail:
    """What manifests after a base lead to; `known` is the base's own, `watermark` its. Raises LogGap."""
    exact = all((m.fingerprint, m.config_hash) == ours for m in known)
    standing, digest = base, base.input_digest
    for m in manifests:
        standing = standing.after(m)
        digest = verified_input(m, digest)
        watermark = m.watermark
        # Beyond a reset lies the state of a process that may have left out what the log could not give it then.
        exact = exact and m.kind != DIGEST_RESET and (m.kind != EPOCH or (m.fingerprint, m.config_hash) == ours)
    return _Tail(standing, watermark, exact)


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
) -> Standing:
    mark = marker(kind, standing, settings, watermark, who, clock.now_ms(), skipped, begins)
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


def _named(ranges: Sequence[Range]) -> str:
    return ", ".join(f"{part.topic}-{part.partition} [{part.start}, {part.stop})" for part in ranges)


def _base(
    sink: Sink, snapshots: SnapshotStore, fresh: Callable[[], Processor]
) -> tuple[Processor, Standing, list[Manifest]]:
    """A processor from the newest snapshot that is whole and belongs to this log, where it stands, its manifest.

    Without such a snapshot, a blank processor, the beginning and no manifest.
    """
    for epoch in reversed(snapshots.epochs()):
        try:
            snapshot = snapshots.load(epoch)
        except SnapshotDamaged as error:
            log.warning("%s; taking an older one", error)
            continue
        except SnapshotTooNew as error:
            raise RecoveryRefused(f"{error}. Run that version, or move the snapshot away.") from error
        standing = Standing.of_header(snapshot.header)
        known = list(islice(sink.manifests(standing.offset), 1))
        if not known:
            raise RecoveryRefused(
                f"there is a snapshot of epoch {epoch}, but the epochs topic has no such manifest: another cluster or "
                "namespace, or the topic was lost? Move the snapshots away to start anew from what the log holds."
            )
        if (known[0].epoch, known[0].state_digest) != (standing.epoch, standing.state_digest):
            log.warning("snapshot of epoch %d is of another history: its digest is not the manifest's", epoch)
            continue
        processor = fresh()
        try:
            processor.load(dict(snapshot.tensors))
        except (KeyError, RuntimeError) as error:
            log.warning("snapshot of epoch %d does not fit these settings (%s)", epoch, error)
            continue
        processor.state_digest = standing.state_digest
        return processor, standing, known
    return fresh(), Standing(), []


def _replay(
    processor: Processor,
    source: Source,
    manifests: Iterable[Manifest],
    count: int,
    accept_gap: bool,
    exact: bool,
    on_progress: Callable[[int, int], None],
) -> bool:
    """Do `count` committed epochs again; returns whether nothing of the log was missing."""
    whole, done = True, 0
    for done, manifest in enumerate(manifests, 1):
        records = _records(source, manifest, accept_gap) if manifest.kind == EPOCH else ()
        if records is None:
            whole = False
        elif manifest.kind == EPOCH:
            processor.apply(manifest.epoch, records, manifest.clock, manifest.effort, poisoned=manifest.poisoned)
            if exact and whole and processor.state_digest != manifest.state_digest:
                raise RecoveryRefused(
                    f"replaying epoch {manifest.epoch} gave state {processor.state_digest[:16]}, its manifest says "
                    f"{manifest.state_digest[:16]}: {FORK}"
                )
        processor.state_digest = manifest.state_digest
        on_progress(done, count)
    if done != count:
        raise RecoveryRefused(f"of {count} manifests that were read at the start {count - done} are gone since")
    return whole


def _records(source: Source, manifest: Manifest, accept_gap: bool) -> Sequence[Record] | None:
    """What an epoch read; None where the log lacks some of it and may."""
    try:
        return read_verified(source, manifest.ranges)
    except LogGap as error:
        if not accept_gap:
            raise RecoveryRefused(f"epoch {manifest.epoch} cannot be replayed: {error}. {GO_ON}") from error
        log.warning("accepted gap in epoch %d: %s", manifest.epoch, error)
        return None


def overtaken(sink: Sink, standing: Standing, instance: str) -> str | None:
    """Which other instance has claimed the shard since `standing`; None if none has: then it was a time-out."""
    for manifest in sink.manifests(max(standing.offset, 0)):
        if manifest.kind == CLAIM and manifest.epoch > standing.epoch and manifest.instance != instance:
            return manifest.instance
    return None


def _snapshot_name(epoch: int) -> str:
    return f"the snapshot of epoch {epoch}" if epoch else "an empty state"
