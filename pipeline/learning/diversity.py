"""Lists that are not all of a kind: re-ranking of the best candidates by their score and how alike their texts are.

Cosines are of text vectors; an item without one has cosine 0 with every other.
Scores are brought to 0…1 within each list's candidates, so that a strength
means the same at any scale of the scores.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.settings import Diversity

POOL = 50
"""Candidates that are re-ranked, at least; twice the list's size where that is more."""
NEGLIGIBLE = 1e-6
"""Below this part of its variance an item adds nothing to those chosen but its score."""


def diversified(score_QC: Tensor, vector_QCP: Tensor, size: int, wanted: Diversity) -> Tensor:
    """[Q, size] places of the candidates to show, in order; by score alone where strength is 0.

    `vector_QCP` are unit rows or zeros. A score of -inf is no candidate: such
    places come last. Equal candidates stand in the order of their places.
    """
    pool_QN = torch.argsort(score_QC, dim=1, descending=True, stable=True)
    pool_QN = pool_QN[:, : pooled(size, wanted)]
    if not diversifies(wanted):
        return pool_QN
    vector_QNP = vector_QCP.gather(1, pool_QN[:, :, None].expand(-1, -1, vector_QCP.shape[2]))
    relevance_QN = _relevance(score_QC.gather(1, pool_QN))
    chosen = _METHODS[wanted.method](relevance_QN, vector_QNP @ vector_QNP.mT, size, wanted.strength)
    return pool_QN.gather(1, chosen)


def diversifies(wanted: Diversity) -> bool:
    """Whether anything but the score decides the order."""
    return wanted.method != "none" and wanted.strength > 0


def pooled(size: int, wanted: Diversity) -> int:
    """How many candidates a list of so many is chosen from, where there are as many."""
    return max(POOL, 2 * size) if diversifies(wanted) else size


def intra_list_diversity(vector_QNP: Tensor, present_QN: Tensor) -> Tensor:
    """[Q] mean of 1 - cosine over the pairs of each list (Ziegler et al. 2005); NaN where there is no pair.

    >>> lists = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    >>> round(float(intra_list_diversity(lists, torch.ones(1, 3, dtype=torch.bool))), 3)
    0.667
    """
    pair_QNN = present_QN[:, :, None] & present_QN[:, None, :]
    pair_QNN = pair_QNN & ~torch.eye(present_QN.shape[1], dtype=torch.bool)
    distance_QNN = 1 - vector_QNP @ vector_QNP.mT
    return (distance_QNN * pair_QNN).sum((1, 2)) / pair_QNN.sum((1, 2))


def _relevance(score_QN: Tensor) -> Tensor:
    """Scores from 0 (the worst candidate) to 1 (the best); -inf stays."""
    present_QN = score_QN > -torch.inf
    most_Q1 = score_QN.amax(1, keepdim=True)
    least_Q1 = score_QN.masked_fill(~present_QN, torch.inf).amin(1, keepdim=True)
    span_Q1 = (most_Q1 - least_Q1).clamp(min=torch.finfo(score_QN.dtype).tiny)
    return torch.where(present_QN, (score_QN - least_Q1) / span_Q1, -torch.inf)


def _mmr(relevance_QN: Tensor, cosine_QNN: Tensor, size: int, strength: float) -> Tensor:
    """Maximal marginal relevance: (1 - strength)·relevance - strength·cosine with the nearest chosen one.

    Carbonell & Goldstein 1998, greedily. Cosines below 0 count as 0.
    """
    nearest_QN = torch.zeros_like(relevance_QN)
    left_QN = torch.ones_like(relevance_QN, dtype=torch.bool)
    order = []
    for _ in range(min(size, relevance_QN.shape[1])):
        gain_QN = (1 - strength) * relevance_QN - strength * nearest_QN
        best_Q1 = _first_best(gain_QN, relevance_QN, left_QN)
        order.append(best_Q1)
        left_QN = left_QN.scatter(1, best_Q1, False)
        nearest_QN = torch.maximum(nearest_QN, _row(cosine_QNN, best_Q1))
    return torch.cat(order, dim=1)


def _dpp(relevance_QN: Tensor, cosine_QNN: Tensor, size: int, strength: float) -> Tensor:
    """Greedy MAP of a determinantal point process: (1 - strength)·sum of relevance + strength·log det of the kernel.

    Chen, Zhang & Zhou 2018, with their kernel (1 + cosine) / 2 and the Cholesky
    rows grown by one item a step: O(size² N) a list.
    """
    kernel_QNN = (1 + cosine_QNN.double()) / 2
    # A unit diagonal, for items without a vector too: each is like itself.
    kernel_QNN.diagonal(dim1=1, dim2=2).fill_(1.0)
    variance_QN = torch.ones_like(relevance_QN, dtype=torch.float64)
    left_QN = torch.ones_like(relevance_QN, dtype=torch.bool)
    steps = min(size, relevance_QN.shape[1])
    factor_QNS = variance_QN.new_zeros(*relevance_QN.shape, steps)
    order = []
    for step in range(steps):
        spread_QN = variance_QN.clamp(min=NEGLIGIBLE).log()
        gain_QN = (1 - strength) * relevance_QN + strength * spread_QN
        best_Q1 = _first_best(gain_QN, relevance_QN, left_QN)
        order.append(best_Q1)
        left_QN = left_QN.scatter(1, best_Q1, False)
        chosen_Q1S = factor_QNS.gather(1, best_Q1[:, :, None].expand(-1, -1, steps))
        overlap_QN = _row(kernel_QNN, best_Q1) - (factor_QNS * chosen_Q1S).sum(2)
        row_QN = overlap_QN / variance_QN.gather(1, best_Q1).clamp(min=NEGLIGIBLE).sqrt()
        factor_QNS[:, :, step] = row_QN
        variance_QN = variance_QN - row_QN.square()
    return torch.cat(order, dim=1)


def _first_best(gain_QN: Tensor, relevance_QN: Tensor, left_QN: Tensor) -> Tensor:
    """[Q, 1] the first place of the greatest gain among those left; those that are no candidates after all others."""
    gain_QN = torch.where(relevance_QN > -torch.inf, gain_QN.double(), -1e300)
    gain_QN = gain_QN.masked_fill(~left_QN, -torch.inf)
    return (gain_QN == gain_QN.amax(1, keepdim=True)).int().argmax(1, keepdim=True)


def _row(matrix_QNN: Tensor, place_Q1: Tensor) -> Tensor:
    """[Q, N] one row of each matrix."""
    return matrix_QNN.gather(1, place_Q1[:, :, None].expand(-1, -1, matrix_QNN.shape[2]))[:, 0]


_METHODS: dict[str, Callable[[Tensor, Tensor, int, float], Tensor]] = {"mmr": _mmr, "dpp": _dpp}
