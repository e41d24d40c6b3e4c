"""What a question may not be answered with, at the cost of what its user consumed, whatever the catalogue's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import banned_kernels as kernels
from pipeline.learning.scratch import Scratch

Arrays = tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32], NDArray[np.generic]]


_mark = Scratch(False, np.bool_)


@dataclass(frozen=True)
class Rows:
    """Rows of items, a list for each question: those of question q are `row_T[start_Q[q] : stop_Q[q]]`, each once.

    >>> Rows.of(torch.tensor([[False, True, True], [False, False, True]]))[torch.tensor([1])].whole(4).tolist()
    [[False, False, True, False]]
    """

    start_Q: NDArray[np.int64]
    stop_Q: NDArray[np.int64]
    row_T: NDArray[np.int32]

    @classmethod
    def none(cls, questions: int) -> Rows:
        """No rows."""
        nowhere = np.zeros(questions, np.int64)
        return cls(nowhere, nowhere, np.zeros(0, np.int32))

    @classmethod
    def each(cls, row_Q: Tensor) -> Rows:
        """One row for each question."""
        at = np.arange(len(row_Q))
        return cls(at, at + 1, row_Q.int().numpy())

    @classmethod
    def of(cls, mask_QI: Tensor) -> Rows:
        """The rows that a mask sets."""
        stop_Q = mask_QI.sum(1).cumsum(0).numpy()
        start_Q = np.concatenate([np.zeros(1, np.int64), stop_Q[:-1]])[: len(stop_Q)]
        return cls(start_Q, stop_Q, torch.nonzero(mask_QI)[:, 1].int().numpy())

    def __len__(self) -> int:
        return len(self.start_Q)

    def __getitem__(self, questions: Tensor) -> Rows:
        at = questions.numpy()
        return Rows(self.start_Q[at], self.stop_Q[at], self.row_T)

    def among(self, rows_R: Tensor) -> Tensor:
        """[Q, R] whether each of these rows is one of the question's."""
        most = max(int(rows_R.max()) if len(rows_R) else 0, int(self.row_T.max()) if len(self.row_T) else 0)
        out_QR = torch.empty(len(self), len(rows_R), dtype=torch.bool)
        kernels.mark_among(self.start_Q, self.stop_Q, self.row_T, _mark.of(most + 1), rows_R.numpy(), out_QR.numpy())
        return out_QR

    def whole(self, items: int) -> Tensor:
        """[Q, items] as a mask."""
        out_QI = torch.zeros(len(self), items, dtype=torch.bool)
        kernels.spread(self.start_Q, self.stop_Q, self.row_T, out_QI.numpy())
        return out_QI


class Banned:
    """`shown_I`: what everybody may be shown; `gone`: what a question may not be answered with beside the rest.

    >>> banned = Banned.of(torch.tensor([[False, True], [True, True]]))
    >>> banned.whole().tolist(), banned.at(torch.tensor([[1, 0], [0, 0]])).tolist(), banned.left().tolist()
    ([[False, True], [True, True]], [[True, False], [True, True]], [1, 0])
    """

    def __init__(self, shown_I: Tensor, gone: Rows) -> None:
        """The rows of `gone` are below the length of `shown_I`."""
        self.shown_I = shown_I
        self.gone = gone
        self.items = len(shown_I)
        """Rows that there are to answer with, banned or not."""
        self._shown = shown_I.numpy()

    @classmethod
    def of(cls, banned_QI: Tensor) -> Banned:
        """What a mask bans."""
        return cls(torch.ones(banned_QI.shape[1], dtype=torch.bool), Rows.of(banned_QI))

    def __len__(self) -> int:
        return len(self.gone)

    def __getitem__(self, questions: Tensor) -> Banned:
        return Banned(self.shown_I, self.gone[questions])

    def arrays(self) -> Arrays:
        """As kernels take it (`banned_kernels`)."""
        gone = self.gone
        return self._shown, gone.start_Q, gone.stop_Q, gone.row_T, _mark.of(self.items)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C] whether these rows are banned."""
        out_QC = torch.empty(rows_QC.shape, dtype=torch.bool)
        kernels.look_up(self.arrays(), rows_QC.numpy(), out_QC.numpy())
        return out_QC

    def left(self) -> Tensor:
        """[Q] how many rows are not banned."""
        left_Q = torch.empty(len(self), dtype=torch.int64)
        kernels.count_left(self.arrays(), int(np.count_nonzero(self._shown)), left_Q.numpy())
        return left_Q

    def whole(self) -> Tensor:
        """[Q, I] as a mask; for evaluation."""
        return self.gone.whole(self.items) | ~self.shown_I
