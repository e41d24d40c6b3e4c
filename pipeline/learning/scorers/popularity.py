"""Popularity at several decays, counted in events: what everybody likes, ever and lately."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.batch import Questions
from pipeline.learning.drift import Reaction
from pipeline.learning.scorer import Column, DenseAnswer, Observation

HORIZONS = (float("inf"), 20_000.0, 2_000.0, 200.0)


class Popularity:
    """Decayed counts of positive events; the horizon is where a count has fallen to 1/e."""

    name = "popularity"
    columns = (
        Column("popularity", prior=0.1),
        Column("popularity-20k", proposes=20, prior=0.1),
        Column("popularity-2k", proposes=30, prior=0.2),
        Column("popularity-200", proposes=30, prior=0.2),
    )

    def __init__(self) -> None:
        self.count_HI = torch.zeros(len(HORIZONS), 64)

    def resize(self, items: int, users: int) -> None:
        """Make room for items."""
        if items > self.count_HI.shape[1]:
            self.count_HI = grown(self.count_HI.T.contiguous(), items).T.contiguous()

    def ask(self, questions: Questions) -> DenseAnswer:
        """The same for every user."""
        items = questions.banned_QI.shape[1]
        return DenseAnswer([row[None, :items] for row in self.count_HI], len(questions))

    def observe(self, seen: Observation) -> None:
        """Count positives; every event lets time pass."""
        events = len(seen.events)
        for h, horizon in enumerate(HORIZONS):
            if horizon != float("inf"):
                self.count_HI[h] *= torch.exp(torch.tensor(-events / horizon, dtype=torch.float64)).float()
        positive_B = seen.positive_B
        rows = seen.events.item_B[positive_B]
        signal = seen.events.signal_B[positive_B]
        for h in range(len(HORIZONS)):
            self.count_HI[h].index_add_(0, rows, signal)

    def react(self, reaction: Reaction) -> None:
        """Let what was counted before weigh less."""
        if reaction.discount != 1:
            self.count_HI *= reaction.discount

    def forget(self, user: int) -> None:
        """Counts name nobody."""

    def state(self) -> dict[str, Tensor]:
        """The counts."""
        return {"count_HI": self.count_HI}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.count_HI = tensors["count_HI"].clone()
