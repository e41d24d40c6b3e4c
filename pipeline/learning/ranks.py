"""Where the item that a user then liked stood in the list they would have had: the honest online question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.learning import ordering
from pipeline.learning import ordering_kernels as kernels
from pipeline.learning.banned import Banned


@dataclass(frozen=True)
class Ranks:
    """Ranks of a micro-batch's targets, for the learner and its peers.

    `rank_Q` is 1-based among all items the user could have been shown; 0 is a
    miss: the item was not known before. Ties count against us.
    """

    rank_Q: dict[str, Tensor]
    top_QN: dict[str, Tensor]
    unseen_Q: Tensor
    item_count_Q: Tensor
    user_count_Q: Tensor

    def __len__(self) -> int:
        return self.unseen_Q.shape[0]

    @staticmethod
    def none(names: Sequence[str], n: int) -> Ranks:
        """Of no question; `n` rows would be the first."""
        rank_Q, top_QN = torch.zeros(0, dtype=torch.int64), torch.zeros(0, n, dtype=torch.int64)
        ranks, tops = dict.fromkeys(names, rank_Q), dict.fromkeys(names, top_QN)
        return Ranks(ranks, tops, rank_Q, torch.zeros(0), rank_Q)


def ndcg_of(rank_Q: Tensor, k: int = 10) -> Tensor:
    """[Q] float64 nDCG@k of one relevant item at each 1-based rank; 0 is a miss.

    >>> ndcg_of(torch.tensor([1, 3, 11, 0])).tolist()
    [1.0, 0.5, 0.0, 0.0]
    """
    hit_Q = (rank_Q > 0) & (rank_Q <= k)
    return torch.where(hit_Q, 1 / torch.log2(1 + rank_Q.clamp(min=1).double()), 0.0)


def gain(score_QC: Tensor, present_QC: Tensor, place_Q: Tensor) -> Tensor:
    """[Q] nDCG@10 of the candidate at `place_Q` (-1: not among them, 0), a tie counting against it.

    >>> score = torch.tensor([[3., 2., 2.], [3., 2., 1.]])
    >>> gain(score, torch.ones(2, 3, dtype=torch.bool), torch.tensor([1, -1])).tolist()
    [0.5, 0.0]
    """
    mine_Q1 = score_QC.gather(1, place_Q.clamp(min=0)[:, None])
    rank_Q = ((score_QC >= mine_Q1) & present_QC).sum(1)
    return ndcg_of(torch.where(place_Q >= 0, rank_Q, 0))


def rank_of(score_QI: Tensor, banned: Banned, target_Q: Tensor) -> Tensor:
    """[Q] 1-based rank of each target among unbanned items, a tie counting against it; 0 for a banned or unknown one.

    >>> rank_of(torch.tensor([[.5, .9, .5]]), Banned.of(torch.zeros(1, 3, dtype=torch.bool)), torch.tensor([0]))
    tensor([3])
    """
    rank_Q = torch.empty_like(target_Q)
    kernels.ranks_of(score_QI.contiguous().numpy(), banned.arrays(), target_Q.numpy(), rank_Q.numpy())
    return rank_Q


def shared_rank(score_I: Tensor, banned: Banned, target_Q: Tensor) -> Tensor:
    """[Q] as `rank_of` by one score that all questions share: one pass over the catalogue, whatever their number.

    >>> none = Banned.of(torch.zeros(2, 3, dtype=torch.bool))
    >>> shared_rank(torch.tensor([.5, .9, .5]), none, torch.tensor([0, 1]))
    tensor([3, 1])
    """
    rank_Q = torch.empty_like(target_Q)
    if len(target_Q) == 0:
        return rank_Q
    score = score_I[: banned.items].numpy()
    floor_F = np.unique(score[target_Q[target_Q < banned.items].numpy()])
    count_F = np.zeros(len(floor_F), np.int64)
    if len(floor_F):
        kernels.count_reaching(score, banned.shown_I.numpy(), floor_F, count_F)
    kernels.shared_ranks(score, banned.arrays(), target_Q.numpy(), floor_F, count_F, rank_Q.numpy())
    return rank_Q


def pooled_rank(score_QC: Tensor, rows_QC: Tensor, rest_I: Tensor, banned: Banned, target_Q: Tensor) -> Tensor:
    """[Q] as `rank_of` where candidates come first by score, then the rest of the catalogue by `rest_I`."""
    rank_Q = shared_rank(rest_I, banned, target_Q)
    kernels.pooled_ranks(
        score_QC.numpy(), rows_QC.long().numpy(), rest_I.numpy(), banned.arrays(), target_Q.numpy(), rank_Q.numpy()
    )
    return rank_Q


def best(score_QI: Tensor, banned: Banned, n: int) -> Tensor:
    """[Q, n] the rows of a whole-catalogue ranking; -1 where fewer may stand."""
    rows_QN, _ = ordering.best(score_QI, banned, n)
    gone_QN = banned.at(rows_QN) | (score_QI.gather(1, rows_QN) == -torch.inf)
    return rows_QN.masked_fill(gone_QN, -1)
