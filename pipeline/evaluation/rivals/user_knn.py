"""Incremental user-user neighbours: what people who liked the same, and lately, like."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.rivals import kernels
from pipeline.learning.arena import grown
from pipeline.learning.learner import Batch

LIKES = 100
"""Last likes of a user that are kept."""
LIKERS = 512
"""Last likers of an item that are kept."""


@dataclass(frozen=True)
class Asking:
    """How many neighbours speak, how a like's weight falls with its place in the history and with its age in events."""

    neighbours: int
    decay: float
    horizon: float

    @property
    def name(self) -> str:
        """As a setting."""
        age = "" if math.isinf(self.horizon) else f"-{self.horizon:.0f}"
        return f"{self.neighbours}-{self.decay:g}{age}"


GRID = (
    *(Asking(n, 0.9, h) for n in (50, 200) for h in (math.inf, 20_000.0)),
    Asking(100, 1.0, math.inf),
    Asking(500, 0.9, math.inf),
)


class UserKnn:
    """Cosine of likes between users, each like weighted by recency (as STAN does for sessions: Garg et al. 2019)."""

    family = "user-knn"

    def __init__(self, askings: tuple[Asking, ...] = GRID) -> None:
        self.settings = tuple(asking.name for asking in askings)
        self._askings = askings
        self._liked_UL = torch.zeros(64, LIKES, dtype=torch.int32)
        self._likes_U = torch.zeros(64, dtype=torch.int32)
        self._liker_IR = torch.zeros(64, LIKERS, dtype=torch.int32)
        self._when_IR = torch.zeros(64, LIKERS, dtype=torch.int32)
        self._likers_I = torch.zeros(64, dtype=torch.int32)
        self._events = 0

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I]; 0 for what no neighbour likes."""
        asking, asked = self._askings[setting], batch.questions
        self._reserve(int(asked.user_Q.max()) + 1, asked.shape[1])
        out_QI = torch.zeros(asked.shape)
        weight_L = (asking.decay ** np.arange(LIKES)).astype(np.float32)
        kernels.ask_users(
            self._liked_UL.numpy(), self._likes_U.numpy(), self._liker_IR.numpy(), self._when_IR.numpy(),
            self._likers_I.numpy(), asked.user_Q.numpy(), asked.history.item_QL.numpy(), asked.history.code_QL.numpy(),
            weight_L, asking.neighbours, asking.horizon, self._events, np.zeros(len(self._likes_U), np.float64),
            out_QI.numpy(),
        )  # fmt: skip
        return out_QI

    def learn(self, batch: Batch, allowance: float) -> None:
        """Note who liked what, and when."""
        events = batch.events
        self._reserve(int(events.user_B.max()) + 1, int(events.item_B.max()) + 1)
        kernels.remember_likes(
            self._liked_UL.numpy(), self._likes_U.numpy(), self._liker_IR.numpy(), self._when_IR.numpy(),
            self._likers_I.numpy(), events.user_B.numpy(), events.item_B.numpy(), batch.seen.positive_B.numpy(),
            self._events,
        )  # fmt: skip
        self._events += len(events)

    def notes(self) -> dict[str, object]:
        """What is forgotten."""
        return {"keeps": f"the last {LIKES} likes of a user, the last {LIKERS} of an item"}

    def _reserve(self, users: int, items: int) -> None:
        self._liked_UL, self._likes_U = grown(self._liked_UL, users), grown(self._likes_U, users)
        self._liker_IR, self._when_IR = grown(self._liker_IR, items), grown(self._when_IR, items)
        self._likers_I = grown(self._likers_I, items)
