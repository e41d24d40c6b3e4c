"""The port behind which every way of scoring items stands: ask, observe, forget. A new scorer is one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline.learning.banned import Banned
from pipeline.learning.batch import History, Interactions, Questions, Shown, nothing_shown, top
from pipeline.learning.effort import FULL, Effort
from pipeline.learning.ordering import best


@dataclass(frozen=True)
class Observation:
    """A micro-batch as scorers learn from it.

    `before` is each event's user's history just before it. `fresh_B` marks
    events whose item the user had not consumed; `learn_B` those with an item to learn from.
    `effort` says how much a scorer that can choose shall do. `shown` is what
    users saw: no event of theirs, and in no history.
    """

    events: Interactions
    before: History
    fresh_B: Tensor
    learn_B: Tensor
    effort: Effort = FULL
    shown: Shown = field(default_factory=nothing_shown)

    @property
    def positive_B(self) -> Tensor:
        """Liked, fresh and with an item."""
        return self.learn_B & self.events.liked_B & self.fresh_B


@dataclass(frozen=True)
class Column:
    """One number that a scorer says of a candidate.

    `logarithmic`: a count-like score >= 0, compared by its logarithm.
    `proposes`: how many of its best join the candidates. `prior`: the weight of
    its rank before anything was learned.
    """

    name: str
    logarithmic: bool = True
    proposes: int = 0
    prior: float = 0.5


class Answer(Protocol):
    """A scorer's opinion on a batch of questions."""

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] rows that the column holds best, best first; whether each is meant: not banned, not scored zero."""
        ...

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] scores of these rows; higher is better."""
        ...

    def whole(self, column: int) -> Tensor:
        """[Q, I] the column's scores of the whole catalogue; for evaluation."""
        ...


@runtime_checkable
class Ranking(Protocol):
    """An answer that finds ranks in the whole catalogue without scoring it."""

    def ranked(self, column: int, banned: Banned, target_Q: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """[Q] each target's rank by the column, and [Q, n] its first rows, as `ranks.rank_of` and `best`."""
        ...


class DenseAnswer:
    """An answer that scored the whole catalogue: exact, linear in its size."""

    def __init__(self, scores: list[Tensor], questions: int) -> None:
        """`scores` holds for each column [Q, I], or [1, I] where all questions share it."""
        self._scores = scores
        self._questions = questions

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        return best(self._scores[column], banned, n)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] scores of these rows."""
        return torch.stack([s.expand(self._questions, -1).gather(1, rows_QC) for s in self._scores], dim=2)

    def whole(self, column: int) -> Tensor:
        """[Q, I] the column."""
        return self._scores[column].expand(self._questions, -1)


class RowsAnswer:
    """An answer that works out the rows that are asked for (`at`): only to propose looks at the whole catalogue."""

    def __init__(self, questions: int, items: int) -> None:
        self._questions = questions
        self._items = items

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] scores of these rows."""
        raise NotImplementedError

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        return best(self.whole(column), banned, n)

    def whole(self, column: int) -> Tensor:
        """[Q, I] the column."""
        return self.at(torch.arange(self._items).expand(self._questions, -1))[:, :, column]


class LateAnswer(RowsAnswer):
    """An answer that chooses among what others propose: it does not look through the catalogue."""

    def propose_among(
        self, column: int, n: int, banned: Banned, rows_QP: Tensor, meant_QP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[Q, n] the best of these rows where they are meant, best first, each once; whether each is meant."""
        rows_QP = torch.sort(torch.where(meant_QP, rows_QP, -1), dim=1).values
        again_QP = torch.nn.functional.pad(rows_QP[:, 1:] == rows_QP[:, :-1], (1, 0))
        score_QP = self.at(rows_QP.clamp(min=0))[:, :, column].masked_fill(again_QP | (rows_QP < 0), -torch.inf)
        best_QN = top(score_QP, n)
        return rows_QP.gather(1, best_QN).clamp(min=0), score_QP.gather(1, best_QN) > -torch.inf


class EmptyAnswer:
    """The answer of a scorer that was not asked: 0 for every item, nothing proposed."""

    def __init__(self, columns: int, questions: Questions) -> None:
        self._columns = columns
        self._shape = questions.shape

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """Rows of which none is meant."""
        shape = (self._shape[0], min(n, self._shape[1]))
        return torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] zeros."""
        return torch.zeros(*rows_QC.shape, self._columns)

    def whole(self, column: int) -> Tensor:
        """[Q, I] zeros."""
        return torch.zeros(self._shape)


class Scorer(Protocol):
    """One way to score items for users; learns from each micro-batch.

    Rows of items and users are the arenas'; `resize` tells how many there are
    before they are used.
    """

    @property
    def name(self) -> str:
        """Stable name: metrics, reasons and snapshots use it."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """What an answer's columns are."""
        ...

    def resize(self, items: int, users: int) -> None:
        """Make room for this many rows."""
        ...

    def ask(self, questions: Questions) -> Answer:
        """Score for users from what is known before their next event. Changes nothing."""
        ...

    def observe(self, seen: Observation) -> None:
        """Learn from a micro-batch."""
        ...

    def forget(self, user: int) -> None:
        """Erase what is kept of a user's row."""
        ...

    def state(self) -> dict[str, Tensor]:
        """All that was learned, as tensors."""
        ...

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        ...
