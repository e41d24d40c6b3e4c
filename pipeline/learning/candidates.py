"""Candidates: the union of what the scorers propose, fused by reciprocal rank, the best few hundred kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.learning.banned import Banned
from pipeline.learning.batch import Questions
from pipeline.learning.ranks import best, rank_of
from pipeline.learning.scorer import Answer, EmptyAnswer, LateAnswer, Ranking, Scorer
from pipeline.learning.sparse import Order, fused

FUSION = 10.0
FILLER = 1e-6


@dataclass(frozen=True)
class Answers:
    """Every scorer's answer to the same questions, with the columns numbered through."""

    scorers: tuple[Scorer, ...]
    answers: tuple[Answer, ...]

    def columns(self) -> list[tuple[Answer, int, int]]:
        """(answer, its column, how many it proposes), in the order of the features."""
        return [
            (answer, at, column.proposes)
            for scorer, answer in zip(self.scorers, self.answers, strict=True)
            for at, column in enumerate(scorer.columns)
        ]

    def ranked(self, name: str, banned: Banned, target_Q: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """[Q] each target's rank by one named column alone, in the whole catalogue, and [Q, n] its first rows."""
        for scorer, answer in zip(self.scorers, self.answers, strict=True):
            for at, column in enumerate(scorer.columns):
                if column.name == name:
                    if isinstance(answer, Ranking):
                        return answer.ranked(at, banned, target_Q, n)
                    whole_QI = answer.whole(at)
                    return rank_of(whole_QI, banned, target_Q), best(whole_QI, banned, n)
        raise KeyError(name)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] every column at these rows."""
        return torch.cat([answer.at(rows_QC) for answer in self.answers], dim=2)

    def asked_S(self) -> Tensor:
        """[S] which columns are those of scorers that were asked."""
        asked = [not isinstance(answer, EmptyAnswer) for answer in self.answers]
        return torch.from_numpy(np.repeat(asked, [len(scorer.columns) for scorer in self.scorers]))


def ask(scorers: Sequence[Scorer], questions: Questions, absent: Collection[str] = ()) -> Answers:
    """Put the questions to every scorer but the `absent` ones."""
    answers: list[Answer] = [
        EmptyAnswer(len(scorer.columns), questions) if scorer.name in absent else scorer.ask(questions)
        for scorer in scorers
    ]
    return Answers(tuple(scorers), tuple(answers))


def _filler(count_N: Tensor) -> Tensor:
    """What popularity alone is worth: less than the last place of any list."""
    return FILLER * (1 + torch.log1p(count_N))


@lru_cache(maxsize=256)
def _shares(places: tuple[int, ...]) -> Tensor:
    """[P] what columns' proposals are worth, so many places of each."""
    return torch.cat([1 / (FUSION + torch.arange(n, dtype=torch.float32)) for n in places])


def candidates(answers: Answers, banned: Banned, popular: Order, n: int) -> tuple[Tensor, Tensor]:
    """[Q, n] rows and whether each may stand: reciprocal-rank fusion (Cormack et al. 2009), filled up by popularity."""
    rows: list[Tensor] = []
    meant: list[Tensor] = []
    # Whoever can only choose among others' proposals comes after them.
    for answer, column, proposes in sorted(answers.columns(), key=lambda said: isinstance(said[0], LateAnswer)):
        if proposes == 0:
            continue
        if isinstance(answer, LateAnswer):
            before_QP = torch.cat(rows, dim=1), torch.cat(meant, dim=1)
            rows_QN, meant_QN = answer.propose_among(column, proposes, banned, *before_QP)
        else:
            rows_QN, meant_QN = answer.propose(column, proposes, banned)
        rows.append(rows_QN)
        meant.append(meant_QN)
    share_P = _shares(tuple(said.shape[1] for said in rows))
    rows_QC, present_QC = fused(torch.cat(rows, dim=1), torch.cat(meant, dim=1), share_P, _filler, popular, banned, n)
    short = (0, n - rows_QC.shape[1])
    return pad(rows_QC, short), pad(present_QC, short)
