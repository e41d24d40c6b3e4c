"""Incremental item-item neighbours: exact counts of all pairs, nothing evicted, dense scores of the whole catalogue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.rivals import kernels
from pipeline.evaluation.rivals.pairs import widened
from pipeline.evaluation.rivals.popularity import Popularity
from pipeline.learning.arena import grown
from pipeline.learning.learner import Batch

NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Counting:
    """How pairs are counted: over which lags and with which weight, of likes only, in both directions."""

    name: str
    lags: int
    decay: float
    likes_only: bool
    both_ways: bool


@dataclass(frozen=True)
class Asking:
    """How a history asks: at most `recent` entries, each `decay` of the one after; what was not liked counts half.

    `likes_only` skips what was not liked, also in counting the lags.
    """

    recent: int
    decay: float
    likes_only: bool = False

    @property
    def name(self) -> str:
        """As a setting."""
        return f"{self.recent}-{self.decay:g}"


COSINE = Counting("cosine", 10_000, 1.0, likes_only=True, both_ways=True)
NEAR = Counting("near", 100, 0.97, likes_only=True, both_ways=True)
ANY = Counting("any", 30, 0.9, likes_only=False, both_ways=True)
NEXT = Counting("next", 10, 0.8, likes_only=False, both_ways=False)
GRID = {
    COSINE: tuple(Asking(n, d, likes_only=True) for n in (10, 30, 100) for d in (1.0, 0.9, 0.8)),
    NEAR: (Asking(100, 0.9), Asking(100, 0.8), Asking(100, 0.7)),
    ANY: (Asking(100, 0.9), Asking(100, 0.85), Asking(100, 0.75)),
    NEXT: (Asking(100, 0.8), Asking(100, 0.7)),
}


class ItemKnn:
    """score(j) = sum over the history of weight * count[i, j] / sqrt(n_i * n_j).

    Cosine of likes (Sarwar et al. 2001; incremental: Miranda & Jorge 2008), with
    counts that fall with the distance in the user's sequence, and sequential
    rules (Ludewig & Jannach 2018).
    """

    def __init__(self, counting: Counting, askings: tuple[Asking, ...], *, fallback: bool = False) -> None:
        """With `fallback`, users whose history scores nothing get what is popular lately (2,000 events)."""
        self.family = "item-knn-or-popular" if fallback else "item-knn"
        self.settings = tuple(f"{counting.name}-{asking.name}" for asking in askings)
        self._counting = counting
        self._askings = askings
        self._popular = Popularity("", (2_000.0,)) if fallback else None
        self._pair_II = np.zeros((64, 64), np.float32)
        self._count_I = torch.zeros(64)
        self._weight_L = _powers(counting.decay, counting.lags)

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I]; 0 for what never occurred with the history."""
        questions, items = batch.questions.shape
        self._reserve(items)
        asking, history = self._askings[setting], batch.questions.history
        scale_I = self._count_I[:items].clamp(min=1.0).rsqrt()
        out_QI = torch.zeros(questions, items)
        kernels.add_rows(
            self._pair_II, scale_I.numpy(), history.item_QL.numpy(), history.code_QL.numpy(),
            _powers(asking.decay, asking.recent), np.float32(0.0 if asking.likes_only else 0.5), asking.likes_only,
            out_QI.numpy(),
        )  # fmt: skip
        out_QI *= scale_I
        if self._popular is not None:
            blank_Q1 = out_QI.amax(1, keepdim=True) <= 0
            out_QI = torch.where(blank_Q1, self._popular.scores(0, batch), out_QI)
        return out_QI

    def learn(self, batch: Batch, allowance: float) -> None:
        """Count pairs and items."""
        counting, before = self._counting, batch.seen.before
        learn_B = batch.seen.learn_B & batch.seen.fresh_B
        self._reserve(int(batch.events.item_B.max()) + 1)
        kernels.count_pairs(
            self._pair_II, batch.events.item_B.numpy(), batch.events.liked_B.numpy(), learn_B.numpy(),
            before.item_QL.numpy(), before.code_QL.numpy(), self._weight_L, counting.likes_only, counting.both_ways,
            counting.decay == 1,
        )  # fmt: skip
        counted_B = batch.seen.positive_B if counting.likes_only else learn_B
        rows = batch.events.item_B[counted_B]
        self._count_I.index_add_(0, rows, torch.ones(len(rows)))
        if self._popular is not None:
            self._popular.learn(batch, allowance)

    def notes(self) -> dict[str, object]:
        """Nothing to say."""
        return {}

    def _reserve(self, items: int) -> None:
        self._count_I = grown(self._count_I, items)
        self._pair_II = widened(self._pair_II, len(self._count_I))


def _powers(decay: float, most: int) -> np.ndarray:
    """[L] decay^lag, as far as it matters."""
    reach = most if decay == 1 else min(most, 1 + int(math.log(NEGLIGIBLE) / math.log(decay)))
    return (decay ** np.arange(reach, dtype=np.float64)).astype(np.float32)
