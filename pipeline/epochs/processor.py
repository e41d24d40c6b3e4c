"""What one epoch does: a pure function of the records it read, the recorded clock and the state before it.

The runner calls it live, recovery calls it again for committed manifests, and
`evaluate --plan` calls it without a broker: the same bytes come out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.epochs.digest import START, StateDigest
from pipeline.epochs.intake import IDENTIFY, Intake, Ledger, Timed, take_in
from pipeline.epochs.joiner import Joined, Joiner
from pipeline.epochs.publication import Publication
from pipeline.epochs.rewinding import Named
from pipeline.epochs.tracing import trace_of
from pipeline.evaluation.prequential import Prequential
from pipeline.evaluation.rival import Tournament
from pipeline.learning.audience import Audience
from pipeline.learning.effort import BY_LEVEL
from pipeline.learning.learner import PEERS, Learner
from pipeline.learning.segments import Segments
from pipeline.messages import (
    FULL_EFFORT,
    Counts,
    DeadLetter,
    Event,
    Item,
    Output,
    Poisoned,
    Record,
    Tombstone,
    Vector,
)
from pipeline.ports import ColdStore, Decoder
from pipeline.settings import Settings
from pipeline.step import even, step, untimed


@dataclass
class Applied:
    """What an epoch came to."""

    outputs: list[Output]
    counts: Counts
    watermark: int
    state_digest: str
    losses: list[tuple[float, float]] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Processor:
    """The learner with all that surrounds it in an epoch. Holds the whole state of a shard."""

    def __init__(
        self,
        settings: Settings,
        device: torch.device,
        decode: Decoder,
        dead_letter: Callable[[DeadLetter], Output],
        *,
        peers: Sequence[str] | None = None,
        k: int = 10,
        halves: bool = False,
        tournament: Tournament | None = None,
        cold: ColdStore | None = None,
    ) -> None:
        """`peers` are scored beside the learner (default: those the settings ask for), `halves` as in `Prequential`.

        The rivals of a `tournament` are asked and taught what the learner is; they are no part of the state.
        Idle users are paged out to `cold`, without one to memory, if the settings say so.
        """
        self.settings = settings
        self.learner = Learner(settings, device, cold)
        self.ledger = Ledger(settings)
        self.joiner = Joiner(self.ledger)
        self.audience = Audience(self.learner.users, settings.publishing)
        self.segments = Segments(self.learner.users, settings.publishing.segments)
        self.peers = tuple(peers if peers is not None else PEERS if settings.metrics.peers else ())
        self.tournament = tournament or Tournament(())
        self._clock = untimed if tournament is None else process_time
        self.prequential = Prequential((*self.peers, *self.tournament.names), k, halves=halves)
        self.state_digest = START
        self.triggers: dict[int, str] = {}
        self.traces: dict[int, bytes] = {}
        self.decode = decode
        self._dead_letter = dead_letter

    def apply(
        self,
        epoch: int,
        records: Sequence[Record],
        clock: int,
        effort: int = FULL_EFFORT,
        *,
        poisoned: Sequence[Poisoned] = (),
        publish: bool = True,
    ) -> Applied:
        """Take an epoch's records in; returns what is to be published and committed.

        `clock` is wall time in ms, `effort` a level of `learning.effort`,
        `poisoned` are records to be set apart: all are recorded in the manifest.
        With `publish` off (a backtest) no list is made.
        """
        self.learner.effort = BY_LEVEL[effort]
        intake = take_in(records, self.decode, self.ledger, self.settings.topic("events"), poisoned)
        publication = Publication(self, epoch, clock)
        before = self.ledger.watermark
        self._take_items(intake, publication, clock)
        self._take_users(intake, publication)
        self.learner.resize()
        taken = (self.joiner.take(vector) for _, vector in intake.texts)
        texts = [joined for joined in taken if joined is not None]
        losses, touched = self._learn(intake, publication, texts)
        for joined in texts:
            self._take_text(joined, touched)
        self.ledger.advance(intake.events)
        if publish:
            self._expire(before, clock)
            self._touch(touched, clock)
            newest = max((t.time for t in intake.events), default=None)
            publication.publish(live=self.audience.is_live(newest, clock, idle=not records))
        self.learner.users.paging.settle()
        return self._applied(intake, publication, losses)

    def pending(self) -> int | None:
        """When, by the clock (ms), a list is due though nothing happens; None if none is."""
        return self.audience.next_due()

    def paged_out(self) -> dict[str, Any]:
        """What of the state lies in the cold store, for a snapshot's header."""
        paging = self.learner.users.paging
        return {"segments": paging.names, "next_segment": paging.next_number}

    def owe(self, concerned: Named, clock: int) -> None:
        """After a rewind: lists that were published for these are no longer what is known, so others are due.

        So are those that show what expires by the time that was reached before: in that history it had expired.
        """
        catalogue = self.learner.catalogue
        for actor, event_id in concerned.texts:
            self.joiner.leave_out(actor, event_id)
        expires_I = catalogue.expires_I[: len(catalogue)]
        expired_I = (expires_I > self.ledger.watermark) & (expires_I <= concerned.reached)
        self.audience.withdrawn(torch.nonzero(expired_I).flatten(), clock)
        self.audience.owe(concerned.users, concerned.items, catalogue.ids, clock)

    def state(self) -> dict[str, Tensor]:
        """The whole state but for what `paged_out` names, as named tensors."""
        parts = (self.learner, self.ledger, self.joiner, self.audience, self.segments, self.prequential)
        tensors: dict[str, Tensor] = {}
        for part in parts:
            tensors |= part.state()
        return tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for part in (self.learner, self.ledger, self.joiner, self.audience, self.segments, self.prequential):
            part.load(tensors)

    def _take_items(self, intake: Intake, publication: Publication, clock: int) -> None:
        catalogue = self.learner.catalogue
        touched, withdrawn = [], []
        for item in intake.items:
            if isinstance(item, Item):
                touched.append(catalogue.describe(item))
            else:
                withdrawn.append(catalogue.withdraw(item.key))
        changed = torch.tensor([*touched, *withdrawn], dtype=torch.int64)
        showable_I = catalogue.showable(self.ledger.watermark, self.learner.undescribed)
        self.audience.withdrawn(changed[~showable_I[changed]], clock)
        vectors: list[Vector] = []
        for record, vector in intake.vectors:
            if isinstance(vector, Tombstone):
                continue
            if problem := catalogue.unusable(np.frombuffer(vector.vector, dtype="<f4"), vector.encoder):
                intake.dead.append(DeadLetter(record, "Unusable", problem, "learner"))
            else:
                vectors.append(vector)
        catalogue.take_vectors(vectors)
        touched += [catalogue.row(vector.item_id) for vector in vectors]
        self.audience.touch_items(torch.tensor(touched, dtype=torch.int64), len(catalogue))
        for row in dict.fromkeys(withdrawn):
            if catalogue.is_withdrawn(row) and self.audience.drop_similar(row):
                publication.withdraw_similar(catalogue.ids.name(row))

    def _take_users(self, intake: Intake, publication: Publication) -> None:
        for _, user in intake.users:
            if isinstance(user, Tombstone):
                self.joiner.forget(user.key)
                self.learner.erase(user.key)
                publication.withdraw_lists(user.key)
                continue
            row = self.learner.users.row(user.user_id)
            self.learner.attributes.describe(row, user.attributes)
            if self.settings.publishing.segments:
                self.segments.describe(row, user.attributes)

    def _take_text(self, joined: Joined, touched: dict[int, Timed | Joined]) -> None:
        known = self.learner.users.ids.find(joined.user_id) >= 0
        if known and joined.vector.shape[0] == self.learner.catalogue.mean_E.shape[0]:
            row = self.learner.take_text(joined.user_id, joined.event_type, joined.time, joined.vector)
            touched[row] = joined

    def _learn(
        self, intake: Intake, publication: Publication, texts: list[Joined]
    ) -> tuple[list[tuple[float, float]], dict[int, Timed | Joined]]:
        """Late events, then micro-batches cut at identifications; returns losses and each touched user's last event.

        `texts` gets those whose vectors were here before them, and is told of identifications.
        """
        losses: list[tuple[float, float]] = []
        touched: dict[int, Timed | Joined] = {}
        self.learner.observe_late([t.event for t in intake.late], [t.time for t in intake.late])
        run: list[Timed] = []
        for happened in intake.events:
            if happened.event.event_type != IDENTIFY:
                run.append(happened)
                if happened.event.text and (joined := self.joiner.expect(happened)) is not None:
                    texts.append(joined)
                continue
            losses += self._learn_run(run, touched)
            run = []
            self._identify(happened, touched, publication, texts)
        losses += self._learn_run(run, touched)
        return losses, touched

    def _learn_run(self, run: list[Timed], touched: dict[int, Timed | Joined]) -> list[tuple[float, float]]:
        losses = []
        for part in even(len(run), self.settings.learning.micro_batch * self.learner.effort.batch):
            happened = run[part]
            events, times = [t.event for t in happened], [t.time for t in happened]
            done = step(self.learner, events, times, self.ledger.watermark, self.peers, self._clock)
            self.tournament.play(done.batch, done.ranks, done.cpu)
            self.prequential.add(done.ranks)
            self.segments.observe(events, done.seen, len(self.learner.catalogue))
            items = done.seen.events.item_B
            self.audience.touch_items(items[items >= 0], len(self.learner.catalogue))
            losses.append((done.interest_loss, done.weights_loss))
            touched |= dict(zip(done.seen.events.user_B.tolist(), happened, strict=True))
        return losses

    def _identify(
        self, happened: Timed, touched: dict[int, Timed | Joined], publication: Publication, texts: list[Joined]
    ) -> None:
        event: Event = happened.event
        if not event.anonymous_id or not event.user_id or event.anonymous_id == event.user_id:
            return
        gone = self.learner.users.ids.find(event.anonymous_id)
        row = self.learner.identify(event.anonymous_id, event.user_id)
        if gone >= 0:
            self.joiner.merged(event.anonymous_id, event.user_id)
            for n, text in enumerate(texts):
                if text.user_id == event.anonymous_id:
                    texts[n] = replace(text, user_id=event.user_id)
            touched.pop(gone, None)
            publication.withdraw_lists(event.anonymous_id)
        touched[row] = happened

    def _expire(self, before: int, clock: int) -> None:
        """Items whose time ran out as the watermark moved: lists that show them are due."""
        self.audience.withdrawn(self.learner.catalogue.expired(before, self.ledger.watermark), clock)

    def _touch(self, touched: dict[int, Timed | Joined], clock: int) -> None:
        rows = sorted(touched)
        times = torch.tensor([touched[row].time for row in rows], dtype=torch.int64)
        self.audience.touch(torch.tensor(rows, dtype=torch.int64), times, clock)
        self.triggers = {row: touched[row].event_id for row in rows}
        events = {row: last for row in rows if isinstance(last := touched[row], Timed)}
        found = {row: trace_of(last.record.headers) for row, last in events.items() if last.record.headers}
        self.traces = {row: trace for row, trace in found.items() if trace is not None}

    def _applied(self, intake: Intake, publication: Publication, losses: list[tuple[float, float]]) -> Applied:
        digest = StateDigest(self.state_digest)
        for interest, weights in losses:
            digest.loss(interest)
            digest.loss(weights)
        for output in publication.outputs:
            digest.published(output.key or b"", output.value)
        self.state_digest = digest.hex()
        counts = Counts(**intake.counts, trained=len(intake.events), lists=publication.lists)
        if not counts.conserved:
            raise AssertionError(f"events not conserved: {counts}")
        dead = [self._dead_letter(letter) for letter in intake.dead]
        return Applied(
            [*publication.outputs, *dead], counts, self.ledger.watermark, self.state_digest, losses, intake.dead
        )
