"""Matrix factorisation, learned one like at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning import kernels
from pipeline.learning.learner import Batch

GRID = tuple((width, rate) for width in (16, 64) for rate in (0.05, 0.1, 0.2))


class Isgd:
    """ISGD: u·i drawn towards 1 for each like (Vinagre, Jorge & Gama 2014)."""

    family = "isgd"

    def __init__(self, width: int, rate: float, seed: int, shrink: float = 0.01) -> None:
        self.settings = (f"{width}-{rate:g}",)
        self._rate, self._shrink = rate, shrink
        self._generators = (torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1))
        self._user_UD = torch.zeros(0, width)
        self._item_ID = torch.zeros(0, width)

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] dot products."""
        items = batch.questions.shape[1]
        self._reserve(int(batch.questions.user_Q.max()) + 1, items)
        return self._user_UD[batch.questions.user_Q] @ self._item_ID[:items].T

    def learn(self, batch: Batch, allowance: float) -> None:
        """One gradient step per like, in order."""
        events = batch.events
        self._reserve(int(events.user_B.max()) + 1, int(events.item_B.max()) + 1)
        kernels.factorise(
            self._user_UD.numpy(), self._item_ID.numpy(), events.user_B.numpy(), events.item_B.numpy(),
            batch.seen.positive_B.float().numpy(), self._rate, self._shrink,
        )  # fmt: skip

    def notes(self) -> dict[str, object]:
        """Nothing to say."""
        return {}

    def _reserve(self, users: int, items: int) -> None:
        self._user_UD = _extended(self._user_UD, users, self._generators[0])
        self._item_ID = _extended(self._item_ID, items, self._generators[1])


def _extended(factor: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    have, width = factor.shape
    if rows <= have:
        return factor
    return torch.cat([factor, torch.randn(max(64, 2 * have, rows) - have, width, generator=generator) * 0.1])
