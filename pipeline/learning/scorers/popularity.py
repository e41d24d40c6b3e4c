"""Popularity at several decays, counted in events: what everybody likes, ever, lately, and at this stage."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.learning import popularity_kernels as kernels
from pipeline.learning.arena import grown
from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM, Questions
from pipeline.learning.ranks import shared_rank
from pipeline.learning.scorer import Answer, Column, Observation, RowsAnswer
from pipeline.learning.sparse import Order, Rising

HORIZONS = (float("inf"), 20_000.0, 2_000.0, 200.0)
STAGES = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5, 32.5, 64.5, 128.5)
STAGE_HORIZON = 20_000.0
EVENTS_BEFORE = 5.0
LIKED_BEFORE = 0.5
STAGE_FLOOR = 0.05
RENORMALISE = math.exp(40)


class Popularity:
    """Decayed counts of positive events; the horizon is where a count has fallen to 1/e.

    popularity-stage counts what users like who have done about as much as this
    one: what newcomers begin with is not what old hands come to. liked-share is
    the part of an item's events that were likes, drawn to LIKED_BEFORE by EVENTS_BEFORE.

    What is counted last weighs more instead of what was counted before less:
    `count_HI / gain_H` are the decayed counts. So an epoch touches what was
    liked in it alone, and all other items keep their order.
    """

    name = "popularity"
    columns = (
        Column("popularity", prior=0.1),
        Column("popularity-20k", proposes=20, prior=0.1),
        Column("popularity-2k", proposes=30, prior=0.2),
        Column("popularity-200", proposes=30, prior=0.2),
        Column("popularity-stage", prior=0.0),
        Column("liked-share", logarithmic=False, prior=0.0),
    )

    def __init__(self) -> None:
        self.count_HI = torch.zeros(len(HORIZONS), 64)
        self.gain_H = torch.ones(len(HORIZONS), dtype=torch.float64)
        self.stage_GI = torch.zeros(len(STAGES) + 1, 64)
        self.stage_gain = torch.ones(1, dtype=torch.float64)
        self.liked_2I = torch.zeros(2, 64)
        self._orders = [Rising() for _ in HORIZONS]

    def resize(self, items: int, users: int) -> None:
        """Make room for items."""
        if items > self.count_HI.shape[1]:
            for name in ("count_HI", "stage_GI", "liked_2I"):
                setattr(self, name, grown(getattr(self, name).T.contiguous(), items).T.contiguous())

    def ask(self, questions: Questions) -> Answer:
        """The same for every user, at every stage."""
        return _Counts(self, _stage(questions.history.count_Q), questions.shape[1])

    def order(self, horizon: int, items: int) -> Order:
        """The first so many items by their count at a horizon."""
        return self._orders[horizon].order(self.count_HI[horizon, :items], float(self.gain_H[horizon]))

    def put_in_order(self, items: int) -> None:
        """As `order` for every horizon: until the next observation several threads may ask for them.

        Whichever asks first sorts, or two do: the rows are the same.
        """
        for horizon in range(len(HORIZONS)):
            self.order(horizon, items)

    def counts(self, horizon: int, rows: Tensor | slice) -> Tensor:
        """[N] decayed counts of these rows."""
        return self.count_HI[horizon, rows] / self.gain_H[horizon].float()

    def observe(self, seen: Observation) -> None:
        """Count positives; every event lets time pass."""
        events = len(seen.events)
        positive_B = seen.positive_B
        raised = seen.events.item_B[positive_B]
        rows, signal = raised.numpy(), seen.events.signal_B[positive_B].numpy()
        # As numpy's: of a few numbers torch takes as long as it takes to begin, which is some microseconds each time.
        gain_H, stage_gain = self.gain_H.numpy(), self.stage_gain.numpy()
        for h, horizon in enumerate(HORIZONS):
            gain_H[h] *= math.exp(events / horizon)
            np.add.at(self.count_HI.numpy()[h], rows, signal * np.float32(gain_H[h]))
            self._orders[h].raised(raised)
        stage_gain *= math.exp(events / STAGE_HORIZON)
        stage = _stage(seen.before.count_Q[positive_B]).numpy()
        np.add.at(self.stage_GI.numpy(), (stage, rows), np.float32(stage_gain[0]))
        self._renormalise()
        counted = seen.events.item_B.numpy()[(seen.learn_B & seen.fresh_B).numpy()]
        np.add.at(self.liked_2I.numpy()[0], rows, np.float32(1))
        np.add.at(self.liked_2I.numpy()[1], counted, np.float32(1))

    def forget(self, user: int) -> None:
        """Counts name nobody."""

    def state(self) -> dict[str, Tensor]:
        """The counts."""
        names = ("count_HI", "gain_H", "stage_GI", "stage_gain", "liked_2I")
        return {name: getattr(self, name) for name in names}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for order in self._orders:
            order.forget()
        for name, tensor in tensors.items():
            setattr(self, name, tensor.clone())

    def _renormalise(self) -> None:
        """Bring gains back to 1 before float32 runs out of room."""
        for h in np.flatnonzero(self.gain_H.numpy() > RENORMALISE).tolist():
            self.count_HI[h] /= self.gain_H[h].float()
            self.gain_H[h] = 1
            self._orders[h].forget()
        if float(self.stage_gain) > RENORMALISE:
            self.stage_GI /= self.stage_gain.float()
            self.stage_gain.fill_(1)


class _Counts(RowsAnswer):
    """Counts; those that all users share are in order already."""

    def __init__(self, counts: Popularity, stage_Q: Tensor, items: int) -> None:
        super().__init__(len(stage_Q), items)
        self._counts = counts
        self._stage_Q = stage_Q

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        if column < len(HORIZONS):
            return self._counts.order(column, self._items).best(banned, n)
        return super().propose(column, n, banned)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] scores of these rows."""
        of, out_QCS = self._counts, torch.empty(*rows_QC.shape, len(Popularity.columns))
        kernels.counts_at(
            of.count_HI.numpy(), of.gain_H.float().numpy(), of.stage_GI.numpy(), of.stage_gain.float().numpy(),
            of.liked_2I.numpy(), self._stage_Q.numpy(), STAGE_FLOOR, EVENTS_BEFORE, LIKED_BEFORE,
            rows_QC.numpy(), out_QCS.numpy(),
        )  # fmt: skip
        return out_QCS

    def ranked(self, column: int, banned: Banned, target_Q: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """[Q] each target's rank by a count that all share, and [Q, n] the first rows (`ranks.rank_of` and `best`)."""
        rows_QN, _ = self.propose(column, n, banned)
        lacking_QN = torch.arange(rows_QN.shape[1]) >= banned.left()[:, None]
        count_I = self._counts.order(column, self._items).score_I
        return shared_rank(count_I, banned, target_Q), rows_QN.masked_fill(lacking_QN, NO_ITEM)

    def whole(self, column: int) -> Tensor:
        """[Q, I] the column."""
        if column < len(HORIZONS):
            return self._counts.counts(column, slice(0, self._items)).expand(self._questions, -1)
        return super().whole(column)


def _stage(count_Q: Tensor) -> Tensor:
    """Bucket of how many events a user has in their history."""
    return torch.bucketize(count_Q.float(), torch.tensor(STAGES))
