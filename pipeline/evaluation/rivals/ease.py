"""EASE: the closed-form item-item ridge, its Gram matrix counted per event, solved again every so often."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.refitting import Likes
from pipeline.evaluation.rivals import kernels
from pipeline.evaluation.rivals.pairs import widened
from pipeline.learning.arena import grown
from pipeline.learning.learner import Batch

MOST_ITEMS = 4_000
LARGE = 6_000
EVERY = 1_024


@dataclass(frozen=True)
class Asking:
    """`symmetric` divides by both items' diagonals, else as published; `decay` of a like per like after it."""

    symmetric: bool
    decay: float

    @property
    def name(self) -> str:
        """As a setting."""
        return f"{'symmetric' if self.symmetric else 'plain'}-{self.decay:g}"


ASKINGS = (Asking(False, 1.0), Asking(True, 1.0), Asking(True, 0.9), Asking(True, 0.8))


class Gram:
    """Who liked i and j: counted over a user's last likes as events come; [I, I]."""

    def __init__(self) -> None:
        self.pair_II = np.zeros((64, 64), np.float32)
        self.count_I = torch.zeros(64)

    def learn(self, batch: Batch) -> None:
        """Count the batch's likes with the likes before each."""
        before, events = batch.seen.before, batch.events
        self._reserve(int(events.item_B.max()) + 1)
        kernels.count_pairs(
            self.pair_II, events.item_B.numpy(), events.liked_B.numpy(), batch.seen.positive_B.numpy(),
            before.item_QL.numpy(), before.code_QL.numpy(), np.ones(before.item_QL.shape[1], np.float32),
            True, True, True,
        )  # fmt: skip
        rows = events.item_B[batch.seen.positive_B]
        self.count_I.index_add_(0, rows, torch.ones(len(rows)))

    def _reserve(self, items: int) -> None:
        self.count_I = grown(self.count_I, items)
        self.pair_II = widened(self.pair_II, len(self.count_I))


class Ridge:
    """What was solved last: minus the precision matrix of the items that took part, and its diagonal."""

    def __init__(self) -> None:
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._weight_MM = torch.zeros(0, 0)
        self._scale_M = torch.zeros(0)
        self.limited = False

    def solve(self, gram: Gram, shrink: float) -> None:
        """Invert the Gram matrix plus `shrink` on its diagonal (Steck, WWW 2019)."""
        liked = torch.nonzero(gram.count_I > 0).flatten()
        if len(liked) > MOST_ITEMS and len(gram.count_I) > LARGE:
            self.limited = True
            order = torch.argsort(gram.count_I[liked], descending=True, stable=True)
            liked = liked[order[:MOST_ITEMS]].sort().values
        rows = liked.numpy()
        gram_MM = torch.from_numpy(gram.pair_II[np.ix_(rows, rows)])
        gram_MM += torch.diag(gram.count_I[liked] + shrink)
        self._weight_MM = -torch.cholesky_inverse(torch.linalg.cholesky(gram_MM))
        self._scale_M = -self._weight_MM.diagonal()
        self._weight_MM.fill_diagonal_(0.0)
        self._rows = liked

    def scores(self, asking: Asking, batch: Batch) -> Tensor:
        """[Q, I]; 0 for items that took no part."""
        history = batch.questions.history
        questions, items = batch.questions.shape
        score_QI = torch.zeros(questions, items)
        if len(self._rows) == 0:
            return score_QI
        place_I = torch.full((max(items, int(self._rows.max()) + 1),), -1)
        place_I[self._rows] = torch.arange(len(self._rows))
        place_QL = torch.where(history.item_here_QL, place_I[history.item_QL.clamp(min=0).long()], -1)
        liked_QL = (history.code_QL & 1).bool() & (place_QL >= 0)
        weight_QL = asking.decay ** (liked_QL.cumsum(1) - 1).clamp(min=0).float() * liked_QL
        x_QM = torch.zeros(questions, len(self._rows))
        x_QM.scatter_add_(1, place_QL.clamp(min=0), weight_QL)
        if asking.symmetric:
            score_QM = (x_QM * self._scale_M.rsqrt()) @ self._weight_MM * self._scale_M.rsqrt()
        else:
            score_QM = x_QM @ self._weight_MM / self._scale_M
        score_QI[:, self._rows] = score_QM
        return score_QI


class OnlineEase:
    """EASE whose Gram matrix follows each event and which is solved every 1,024 of them."""

    family = "online-ease"

    def __init__(self, shrink: float, askings: tuple[Asking, ...] = ASKINGS) -> None:
        self.settings = tuple(f"{shrink:g}-{asking.name}" for asking in askings)
        self._shrink, self._askings = shrink, askings
        self._gram, self._ridge = Gram(), Ridge()
        self._events = 0

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] by the matrix solved last, from the history as it is now."""
        return self._ridge.scores(self._askings[setting], batch)

    def learn(self, batch: Batch, allowance: float) -> None:
        """Count; solve where another 1,024 events are full."""
        self._gram.learn(batch)
        before, self._events = self._events, self._events + len(batch.events)
        if self._events // EVERY > before // EVERY:
            self._ridge.solve(self._gram, self._shrink)

    def notes(self) -> dict[str, object]:
        """Whether the catalogue was too large."""
        return {"limited_to": f"the {MOST_ITEMS} most liked items"} if self._ridge.limited else {}


class RefittedEase:
    """EASE as it is published, solved anew on a schedule; asked with the history as it is now."""

    def __init__(self, shrink: float, asking: Asking) -> None:
        self._shrink, self._asking, self._ridge = shrink, asking, Ridge()

    def fit(self, likes: Likes) -> None:
        """Count all likes anew, then solve."""
        liked_UI = likes.matrix()
        liked_UI.data[:] = np.minimum(liked_UI.data, 1)
        gram_II = (liked_UI.T @ liked_UI).tocsr()
        gram = Gram()
        gram.count_I = torch.from_numpy(gram_II.diagonal().astype(np.float32))
        gram.pair_II = gram_II.toarray()
        np.fill_diagonal(gram.pair_II, 0)
        self._ridge.solve(gram, self._shrink)

    def scores(self, batch: Batch) -> Tensor:
        """[Q, I] by the matrix solved last."""
        return self._ridge.scores(self._asking, batch)
