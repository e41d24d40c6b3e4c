"""Where a replay begins: the newest snapshot that the log bears out, or an empty state, and the manifests after it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pipeline.epochs.history import Standing
from pipeline.epochs.processor import Processor
from pipeline.epochs.replay import RecoveryRefused, events_in
from pipeline.epochs.rewinding import Undone
from pipeline.epochs.tail import Tail, manifests_from
from pipeline.messages import Manifest, Rewind
from pipeline.ports import Sink, SnapshotDamaged, SnapshotStore, SnapshotTooNew

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """Where a replay begins: a processor, the manifest that it stands at (`known`), those after it.

    `saved_at` (ms) and `size` (bytes) are the snapshot's; 0 without one.
    """

    processor: Processor
    standing: Standing
    known: tuple[Manifest, ...]
    manifests: Tail
    saved_at: int = 0
    size: int = 0

    def told(self, now: int) -> str:
        """What is begun with and what is to be replayed, for a person; `now` in ms."""
        start = "an empty state"
        if self.standing.epoch:
            start = f"the snapshot of epoch {self.standing.epoch} ({self.size / 1e6:.1f} MB"
            start += f", {_age(now - self.saved_at)} old)" if self.saved_at else ")"
        events = events_in(self.manifests, self.processor.settings.topic("events"))
        line = f"starting from {start}, then {len(self.manifests)} epochs to replay"
        if not self.manifests:
            return line
        first = self.standing.epoch + 1
        return f"{line}, {first} to {first + len(self.manifests) - 1}: {events} events"


def _age(ms: int) -> str:
    seconds = max(ms, 0) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def base_of(
    sink: Sink, snapshots: SnapshotStore, fresh: Callable[[], Processor], rewind: Rewind | None = None
) -> Base:
    """A processor from the newest snapshot that is whole, belongs to this log and was not taken back by a rewind.

    `rewind` is one that is about to be. Only the manifest of the snapshot and
    those after it are read: the epochs topic is kept for ever and may be long.
    Without such a snapshot, a blank processor and every manifest.
    """
    for epoch in reversed(snapshots.epochs()):
        if rewind is not None and epoch > rewind.base:
            continue
        try:
            snapshot = snapshots.load(epoch)
        except SnapshotDamaged as error:
            log.warning("%s; taking an older one", error)
            continue
        except SnapshotTooNew as error:
            raise RecoveryRefused(f"{error}. Run that version, or move the snapshot away.") from error
        standing = Standing.of_header(snapshot.header)
        tail = manifests_from(sink, standing)
        known = tuple(islice(tail, 1))
        if not known:
            raise RecoveryRefused(
                f"there is a snapshot of epoch {epoch}, but the epochs topic has no such manifest: another cluster or "
                "namespace, or the topic was lost? Move the snapshots away to start anew from what the log holds."
            )
        if (known[0].epoch, known[0].state_digest) != (standing.epoch, standing.state_digest):
            log.warning("snapshot of epoch %d is of another history: its digest is not the manifest's", epoch)
            continue
        tail = tail.rest()
        if by := Undone(tail).by(epoch):
            log.info("snapshot of epoch %d was taken back by the rewind in epoch %d", epoch, by)
            continue
        processor = fresh()
        try:
            processor.load(dict(snapshot.tensors))
        except (KeyError, RuntimeError) as error:
            log.warning("snapshot of epoch %d does not fit these settings (%s)", epoch, error)
            continue
        processor.state_digest = standing.state_digest
        size = sum(tensor.numel() * tensor.element_size() for tensor in snapshot.tensors.values())
        return Base(processor, standing, known, tail, snapshot.header.get("saved_at", 0), size)
    return Base(fresh(), Standing(), (), manifests_from(sink, Standing()))
