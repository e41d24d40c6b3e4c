"""Candidates: the union of what the scorers propose, fused by reciprocal rank, the best few hundred kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.learning.batch import Questions
from pipeline.learning.scorer import Answer, EmptyAnswer, Scorer
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

    def whole(self, name: str) -> Tensor:
        """[Q, I] one named column of the whole catalogue."""
        for scorer, answer in zip(self.scorers, self.answers, strict=True):
            for at, column in enumerate(scorer.columns):
                if column.name == name:
                    return answer.whole(at)
        raise KeyError(name)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] every column at these rows."""
        return torch.cat([answer.at(rows_QC) for answer in self.answers], dim=2)

    def asked_S(self) -> Tensor:
        """[S] which columns are those of scorers that were asked."""
        return torch.tensor([not isinstance(answer, EmptyAnswer) for answer, _, _ in self.columns()])


def ask(scorers: Sequence[Scorer], questions: Questions, absent: Collection[str] = ()) -> Answers:
    """Put the questions to every scorer but the `absent` ones."""
    answers: list[Answer] = [
        EmptyAnswer(len(scorer.columns), questions) if scorer.name in absent else scorer.ask(questions)
        for scorer in scorers
    ]
    return Answers(tuple(scorers), tuple(answers))


def candidates(answers: Answers, banned_QI: Tensor, popular: Order, n: int) -> tuple[Tensor, Tensor]:
    """[Q, n] rows and whether each may stand: reciprocal-rank fusion (Cormack et al. 2009), filled up by popularity."""
    rows, shares = [], []
    for answer, column, proposes in answers.columns():
        if proposes == 0:
            continue
        rows_QN, meant_QN = answer.propose(column, proposes, banned_QI)
        rows.append(rows_QN)
        shares.append(meant_QN / (FUSION + torch.arange(rows_QN.shape[1], dtype=torch.float32)))
    filler_I = FILLER * (1 + torch.log1p(popular.score_I))
    rows_QC, present_QC = fused(torch.cat(rows, dim=1), torch.cat(shares, dim=1), filler_I, popular, banned_QI, n)
    short = (0, n - rows_QC.shape[1])
    return pad(rows_QC, short), pad(present_QC, short)
