"""Matrix factorisation, learned one positive at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning import dot_kernels, kernels
from pipeline.learning.batch import Questions
from pipeline.learning.scorer import Answer, Column, Observation, RowsAnswer

WIDTH = 32


class Factorization:
    """ISGD: u·i drawn towards 1 for each positive (Vinagre, Jorge & Gama 2014)."""

    name = "factorization"
    columns = (Column("factorization", logarithmic=False, prior=0.1),)

    def __init__(self, seed: int, rate: float = 0.05, shrink: float = 0.01) -> None:
        self._seed = seed
        self._rate = rate
        self._shrink = shrink
        self.user_UD = torch.zeros(0, WIDTH)
        self.item_ID = torch.zeros(0, WIDTH)

    def resize(self, items: int, users: int) -> None:
        """Make room; new rows start at small random values that depend on seed and row alone."""
        self.user_UD = self._extended(self.user_UD, users, 2)
        self.item_ID = self._extended(self.item_ID, items, 1)

    def ask(self, questions: Questions) -> Answer:
        """Dot products."""
        return _Dots(self.user_UD[questions.user_Q], self.item_ID[: questions.shape[1]])

    def observe(self, seen: Observation) -> None:
        """One gradient step per positive."""
        weight_B = seen.positive_B * seen.events.signal_B
        kernels.factorise(
            self.user_UD.numpy(), self.item_ID.numpy(), seen.events.user_B.numpy(), seen.events.item_B.numpy(),
            weight_B.numpy(), self._rate, self._shrink,
        )  # fmt: skip

    def forget(self, user: int) -> None:
        """Back to the start value."""
        if user < self.user_UD.shape[0]:
            self.user_UD[user] = self._start(user, 1, 2)[0]

    def state(self) -> dict[str, Tensor]:
        """Both factors."""
        return {"user_UD": self.user_UD, "item_ID": self.item_ID}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.user_UD = tensors["user_UD"].clone()
        self.item_ID = tensors["item_ID"].clone()

    def _extended(self, factor: Tensor, rows: int, salt: int) -> Tensor:
        have = factor.shape[0]
        if rows <= have:
            return factor
        wanted = max(64, 2 * have, rows)
        return torch.cat([factor, self._start(have, wanted - have, salt)])

    def _start(self, first: int, rows: int, salt: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + salt * 7919 + first)
        return torch.randn(rows, WIDTH, generator=generator) * 0.1


class _Dots(RowsAnswer):
    """Dot products."""

    def __init__(self, user_QD: Tensor, item_ID: Tensor) -> None:
        super().__init__(len(user_QD), len(item_ID))
        self._user_QD = user_QD
        self._item_ID = item_ID

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, 1] scores of these rows."""
        out_QC = torch.empty(rows_QC.shape)
        dot_kernels.dots(self._item_ID.numpy(), rows_QC.numpy(), self._user_QD.numpy(), out_QC.numpy())
        return out_QC[:, :, None]
