"""The learner's loop. The epoch protocol, in one place:

start    fence the predecessor and abort what it left open; read the manifests;
         commit a claim; load a snapshot, replay the rest (`epochs.recovery`)
epoch    poll → decode → order → dedupe → step (`epochs.processor`), then in one
         transaction: lists, dead letters, the manifest, the consumed positions;
         every record's acknowledgement is checked before the commit
beside   while that transaction is under way, and a whole epoch waits already, the
         next one is polled and its step taken; nothing of it leaves the process
         before the first is known good
after    only when the commit is known to be good is the state that of the new
         epoch; now and then it is copied and written as a snapshot, of an epoch
         that no step was taken upon
doubt    anything else: drop source, sink and state and start again. There is no
         other way to recover. Fenced by a newer instance: stop for good
poison   a step that raises, or ends the process, is doubt too; after two such
         attempts the batch is halved, and the record that is left a dead letter
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline.epochs.digest import chained_input, config_hash, ranges_of
from pipeline.epochs.history import EPOCH, Standing
from pipeline.epochs.poison import MemoryNote, Note, StepFailed, Trials, said
from pipeline.epochs.processor import Applied, Processor
from pipeline.epochs.recovery import Identity, Recovered, overtaken, recover
from pipeline.epochs.replay import Progress
from pipeline.learning.effort import BY_LEVEL
from pipeline.messages import Manifest, Poisoned, Record, TopicPartition
from pipeline.ports import Clock, ColdDamaged, CommitUnknown, Fenced, Sink, SnapshotStore, Source
from pipeline.runtime.desk import Desk
from pipeline.runtime.governor import Governor
from pipeline.runtime.metrics import LearnerMetrics
from pipeline.runtime.pipelining import Commits, Learned, one_thread
from pipeline.runtime.polling import gathered, waiting
from pipeline.runtime.replaying import ReplayReport
from pipeline.runtime.snapshots import SnapshotWriter, Task, in_thread
from pipeline.runtime.spans import NoSpans, Spans
from pipeline.settings import Settings

log = logging.getLogger(__name__)

IDLE_POLL_S = 0.2
QUIET_POLL_S = 1.0
QUIET_S = 5.0
"""Seconds without records after which the loop turns once a second, for as long as nothing is due sooner."""
GATHER_S = 0.5
"""Seconds in which the events of an epoch are gathered while much would have to be done again by a restart."""
NEW_PARTITIONS_S = 5.0
REFRESH_METRICS_S = 1.0
RETRY_S = 1.0
FENCED_S = 3.0


class _Stopped(Exception):
    """Asked to stop in the middle of a replay."""


@dataclass
class Health:
    """What /livez and /readyz answer: alive while the loop turns, ready once recovered."""

    ready: threading.Event = field(default_factory=threading.Event)
    turned_at: float = field(default_factory=time.monotonic)

    def turn(self) -> None:
        """The loop turned."""
        self.turned_at = time.monotonic()


@dataclass(frozen=True)
class Parts:
    """What a runner is made of; the factories make new ones after every doubt."""

    settings: Settings
    make_source: Callable[[], Source]
    make_sink: Callable[[], Sink]
    make_processor: Callable[[], Processor]
    snapshots: SnapshotStore
    who: Identity
    clock: Clock
    metrics: LearnerMetrics
    health: Health
    accept_gap: bool = False
    beside: Callable[[Callable[[], None]], Task] = in_thread
    commits: Callable[[], Executor] = one_thread
    note: Note = field(default_factory=MemoryNote)
    desk: Desk = field(default_factory=Desk)
    spans: Spans = field(default_factory=NoSpans)


class Runner:
    """One shard's learner, from start to stop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._writer = SnapshotWriter(
            parts.snapshots, parts.settings.epochs, parts.metrics, parts.clock, parts.beside
        )
        self._config_hash = config_hash(parts.settings)
        learning, epochs = parts.settings.learning, parts.settings.epochs
        self._governor = Governor(
            learning.effort, learning.micro_batch, epochs.most_replay_s, epochs.timely_ms / 1000
        )
        self.processor: Processor | None = None
        self.standing = Standing()
        self._begun: dict[TopicPartition, int] = {}
        self._read_at = time.monotonic()
        self._trials = Trials(parts.note)
        self._commits = Commits(
            parts.commits(), parts.metrics, parts.spans, parts.desk, parts.clock, self._governor,
            parts.settings.topic("events"),
        )  # fmt: skip

    def run(self, stop: threading.Event) -> None:
        """Learn until `stop` is set, finish the epoch, write a snapshot and return.

        Raises Fenced, RecoveryRefused, NotTheRecords.
        """
        try:
            self._live(stop, self._parts.accept_gap)
        finally:
            self._commits.close()
        self._writer.close()

    def _live(self, stop: threading.Event, accept_gap: bool) -> None:
        while not stop.is_set():
            source, sink = None, self._parts.make_sink()
            try:
                source = self._parts.make_source()
                self._learn(source, sink, stop, accept_gap)
            except _Stopped:
                log.info("stopped while replaying; the log has it all")
            except Fenced:
                self._unless_overtaken(sink, stop)
            except (CommitUnknown, ConnectionError, ColdDamaged, StepFailed) as error:
                log.warning("%s: %s; starting again from the log", type(error).__name__, error)
                self._parts.metrics.epochs.labels("aborted").inc()
                self._parts.health.ready.clear()
                self._parts.health.turn()  # alive: to be started anew would not bring Kafka back
                stop.wait(RETRY_S)
            finally:
                self._parts.desk.close()
                self._parts.spans.doubt()
                with suppress(ConnectionError):
                    if source is not None:
                        source.close()
                    sink.close()

    def _learn(self, source: Source, sink: Sink, stop: threading.Event, accept_gap: bool) -> None:
        began = time.monotonic()
        recovered = self._recover(source, sink, stop, accept_gap)
        self.processor, self.standing = recovered.processor, recovered.standing
        self._writer.worked(time.monotonic() - began)
        if recovered.anew or self._trials.halving:
            self._writer.write(self.processor, self.standing)
        self._seek(source)
        self._parts.metrics.recovered(self.standing.epoch, self.processor)
        self._parts.desk.open(self.processor, self.standing.epoch)
        self._parts.health.ready.set()
        log.info("ready: reading %d partitions, epoch %d", len(self._begun), self.standing.epoch)
        try:
            self._go_on(source, sink, stop)
        except Exception:
            self._settle(stepped_upon=True)  # that this instance is fenced, say, counts for more
            raise
        self._writer.write(self.processor, self.standing)

    def _go_on(self, source: Source, sink: Sink, stop: threading.Event) -> None:
        """Epoch after epoch until `stop`; all are committed then."""
        assert self.processor is not None
        looked = shown = time.monotonic()
        while not stop.is_set():
            self._parts.health.turn()
            self._epoch(source, sink)
            if time.monotonic() - looked > NEW_PARTITIONS_S:
                looked = time.monotonic()
                if set(source.partitions()) != self._begun.keys():
                    log.info("partitions changed")
                    self._settle()
                    self._seek(source)
            if time.monotonic() - shown > REFRESH_METRICS_S:
                shown = time.monotonic()
                self._settle()
                self._parts.metrics.prequential(self.processor)
                self._parts.metrics.lags(source.high_watermarks(), source.positions())
        self._settle()

    def _unless_overtaken(self, sink: Sink, stop: threading.Event) -> None:
        """A broker that timed our transaction out fences as well as a newer instance does: only the latter ends us."""
        self._parts.metrics.epochs.labels("aborted").inc()
        self._parts.health.ready.clear()
        stop.wait(FENCED_S)
        other = None
        while not stop.is_set():
            try:
                other = overtaken(sink, self.standing, self._parts.who.instance)
                break
            except ConnectionError as error:
                log.warning("%s; asking again who has taken over", error)
                stop.wait(RETRY_S)
        if other is not None:
            raise Fenced(f"instance {other} has taken over this shard; this one stops for good")
        log.warning("the broker gave our transaction up; starting again from the log")

    def _recover(self, source: Source, sink: Sink, stop: threading.Event, accept_gap: bool) -> Recovered:
        parts = self._parts

        def stand(standing: Standing) -> None:
            # A claim that is fenced is asked about too: only a claim newer than this one's log ends us.
            self.standing = standing

        with ReplayReport() as report:

            def progress(done: Progress) -> None:
                parts.health.turn()
                parts.metrics.epochs.labels("replayed").inc(done.epochs > 0)
                if stop.is_set():
                    raise _Stopped
                report(done)

            recovered = recover(
                source, sink, parts.snapshots, parts.make_processor, parts.who, parts.clock,
                accept_gap=accept_gap, on_standing=stand, on_progress=progress,
            )  # fmt: skip
        parts.metrics.past.tell(recovered.standing.past)
        return recovered

    def _seek(self, source: Source) -> None:
        """Read on in each partition that exists; one made since the claim begins at 0."""
        self._begun = {tp: self.standing.positions.get(tp, 0) for tp in source.partitions()}
        source.seek(self._begun)

    def _epoch(self, source: Source, sink: Sink) -> None:
        """The next epoch's step is taken and its commit begun; or nothing, if nothing came and no list is due."""
        assert self.processor is not None
        metrics, spans = self._parts.metrics, self._parts.spans
        # Where nothing waits to be learned, what came of a commit is to be known at once.
        records = self._poll(source, self._patience_s() if self._commits.underway is None else 0.0)
        began, now = time.monotonic(), self._parts.clock.now_ms()
        after = source.positions()
        events, unread = waiting(source, self._parts.settings.topic("events"), records, after)
        effort = self._governor.choose(events + unread, began, self._writer.unsaved_s)
        due = self.processor.pending()
        idle = not records and (due is None or due > now)
        if idle or self._commits.answered:
            self._settle()
        if idle:
            return
        underway = self._commits.underway
        before = self.standing if underway is None else underway.standing
        epoch = before.epoch + 1
        stepped = time.monotonic()
        at = {place: before.positions.get(place, begun) for place, begun in self._begun.items()}
        poisoned = self._trials.begin(at, records)
        self._parts.desk.hold()
        spans.begin(epoch, records)
        with metrics.stage.labels("step").time(), spans.stage(epoch, "step"):
            applied = self._step(epoch, records, now, effort, poisoned)
        stepped = time.monotonic() - stepped
        manifest = self._manifest(before, applied, records, after, now, effort, poisoned)
        learned = Learned(
            records, events, effort, applied, before.after(manifest), metrics.rows_of(self.processor), began, stepped
        )
        self._settle(stepped_upon=True)
        self._commits.begin(sink, learned, manifest, after)
        # A step beside a commit makes that one's lists late: only while a whole epoch waits already is it worth it.
        worth = unread >= self._most() and not self._parts.desk.asked
        if not worth or self._writer.is_due(stepped) or not self._trials.calm or self._commits.answered:
            self._settle()

    def _settle(self, *, stepped_upon: bool = False) -> None:
        """Wait for the commit under way, if one is: only now does its epoch stand. Raises what the commit did.

        `stepped_upon` where the state is no longer that of the epoch: the next step was taken, or begun.
        """
        assert self.processor is not None
        learned = self._commits.known()
        if learned is None:
            return
        self.standing = learned.standing
        if stepped_upon:
            self._writer.worked(learned.stepped)
            return
        self._trials.committed()
        self._writer.maybe_write(self.processor, self.standing, learned.stepped)

    def _step(
        self, epoch: int, records: list[Record], now: int, effort: int, poisoned: tuple[Poisoned, ...]
    ) -> Applied:
        assert self.processor is not None
        try:
            applied = self.processor.apply(epoch, records, now, effort, poisoned=poisoned)
        except (ColdDamaged, OSError) as error:
            # The disk's fault, not the records'.
            self._trials.survived()
            raise StepFailed(f"on {len(records)} records: {said(error)}") from error
        except Exception as error:
            self._parts.metrics.step_failures.inc()
            log.debug("the step failed on %d records", len(records), exc_info=error)
            self._trials.failed(error)
            raise StepFailed(f"on {len(records)} records: {said(error)}") from error
        self._trials.survived()
        return applied

    def _patience_s(self) -> float:
        """How long to wait for a first record."""
        assert self.processor is not None
        if time.monotonic() - self._read_at < QUIET_S:
            return IDLE_POLL_S
        due = self.processor.pending()
        soon = due is not None and due < self._parts.clock.now_ms() + QUIET_POLL_S * 1000
        return IDLE_POLL_S if soon else QUIET_POLL_S

    def _most(self) -> int:
        """Records of an epoch."""
        return self._trials.most(self._parts.settings.epochs.max_events * BY_LEVEL[self._governor.level].batch)

    def _poll(self, source: Source, patience_s: float) -> list[Record]:
        most, wait_ms = self._most(), self._parts.settings.epochs.linger_ms
        # Of a few events at a time a restart has nearly as much to do again as of many.
        linger_s = max(wait_ms / 1000, GATHER_S if self._governor.saves(self._writer.unsaved_s) else 0.0)
        records = gathered(source, most, patience_s, linger_s)
        if records:
            self._read_at = time.monotonic()
        return records

    def _manifest(
        self,
        before: Standing,
        applied: Applied,
        records: list[Record],
        after: dict[TopicPartition, int],
        now: int,
        effort: int,
        poisoned: tuple[Poisoned, ...],
    ) -> Manifest:
        ranges = ranges_of(records, {**self._begun, **before.positions}, after)
        return Manifest(
            epoch=before.epoch + 1,
            instance=self._parts.who.instance,
            kind=EPOCH,
            ranges=ranges,
            seed=self._parts.settings.seed,
            counts=applied.counts,
            watermark=applied.watermark,
            clock=now,
            config_hash=self._config_hash,
            fingerprint=self._parts.who.fingerprint,
            input_digest=chained_input(before.input_digest, ranges),
            state_digest=applied.state_digest,
            effort=effort,
            poisoned=poisoned,
        )
