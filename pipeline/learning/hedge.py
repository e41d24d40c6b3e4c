"""A hedge for users without history: whichever of the weighted score and single columns has lately ranked best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

DECAY = 0.998
CUT = 10


def gain(score_QC: Tensor, present_QC: Tensor, place_Q: Tensor) -> Tensor:
    """[Q] nDCG@10 of the candidate at `place_Q` (-1: not among them, 0), a tie counting against it.

    >>> gain(torch.tensor([[3.0, 1.0, 2.0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([0])).tolist()
    [1.0]
    """
    mine_Q1 = score_QC.gather(1, place_Q.clamp(min=0)[:, None])
    rank_Q = ((score_QC >= mine_Q1) & present_QC).sum(1).clamp(min=1)
    return torch.where((place_Q >= 0) & (rank_Q <= CUT), 1 / torch.log2(1 + rank_Q.float()), 0.0)


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
        gain_QE = torch.stack([gain(score_QC, present_QC, place_Q) for score_QC in scores], dim=1).double()
        for gain_E in gain_QE:
            self.gain_E.mul_(DECAY).add_(gain_E, alpha=1 - DECAY)
