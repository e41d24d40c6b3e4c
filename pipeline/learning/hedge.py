"""A hedge for users without history: whichever of the weighted score and single columns has lately ranked best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.learning.ranks import gain

DECAY = 0.998


class Hedge:
    """Follows the leader on decayed nDCG among the learner (first) and columns that need no history.

    After Cesa-Bianchi & Lugosi 2006, chapter 4, in its plainest form: one user
    without history is much like the next, so what was right of late is right.
    """

    def __init__(self, columns: Sequence[int]) -> None:
        """`columns` are those that can stand alone."""
        self.columns = tuple(columns)
        self.gain_E = torch.zeros(1 + len(self.columns), dtype=torch.float64)

    def leader(self) -> int | None:
        """The column to rank by; None while the learner itself does best."""
        best = int(self.gain_E.argmax())
        return None if best == 0 else self.columns[best - 1]

    def learn(self, own_QC: Tensor, column_QCE: Tensor, present_QC: Tensor, place_Q: Tensor) -> None:
        """Questions of users without history, in order: the learner's own scores and each column's, and the target."""
        scores = [own_QC, *column_QCE.unbind(2)]
        gain_QE = torch.stack([gain(score_QC, present_QC, place_Q) for score_QC in scores], dim=1)
        kept_Q1 = DECAY ** torch.arange(len(gain_QE) - 1, -1, -1, dtype=torch.float64)[:, None]
        self.gain_E = DECAY ** len(gain_QE) * self.gain_E + ((1 - DECAY) * kept_Q1 * gain_QE).sum(0)
