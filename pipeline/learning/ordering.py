"""The best rows of a score, as a stable sort gives them but sooner."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning import ordering_kernels
from pipeline.learning.banned import Banned, Rows
from pipeline.learning.batch import top

FEW = ordering_kernels.FEW
"""Up to so many are put in order by comparing all pairs; more are sorted."""


def best(score_RI: Tensor, banned: Banned, n: int) -> tuple[Tensor, Tensor]:
    """[Q, n] rows of the greatest scores (float32), of equals the first ones; whether each is meant.

    `score_RI` has a row for each question, or one for all. A row is meant that
    is not banned and whose score is neither 0 nor -inf; which rows fill the
    other places means nothing.

    >>> best(torch.tensor([[1.0, 3.0, 0.0, 3.0]]), Banned.of(torch.tensor([[False, False, False, True]])), 3)
    (tensor([[1, 0, 2]]), tensor([[ True,  True, False]]))
    """
    n = min(n, banned.items)
    if n > FEW:
        score_QI = score_RI.masked_fill(banned.whole(), -torch.inf)
        rows_QN = top(score_QI, n)
        found_QN = score_QI.gather(1, rows_QN)
        return rows_QN, (found_QN != 0) & (found_QN > -torch.inf)
    rows_QN = torch.empty(len(banned), n, dtype=torch.int64)
    meant_QN = torch.empty(len(banned), n, dtype=torch.bool)
    ordering_kernels.best_rows(score_RI.contiguous().numpy(), banned.arrays(), rows_QN.numpy(), meant_QN.numpy())
    return rows_QN, meant_QN


def greatest(score_QC: Tensor, n: int) -> Tensor:
    """[Q, n] places of the greatest scores (float32), greatest first, of equals the first ones.

    >>> greatest(torch.tensor([[1.0, 3.0, -torch.inf, 3.0]]), 3).tolist()
    [[1, 3, 0]]
    """
    nothing = Banned(torch.ones(score_QC.shape[1], dtype=torch.bool), Rows.none(len(score_QC)))
    return best(score_QC, nothing, n)[0]
