"""The port of the tournament: a rival is asked what the learner is asked, at the same moment, then learns the same.

What a rival knows is the micro-batch as the learner admitted it: rows of users
and items, each question's user with their history up to their event, and which
items may not be answered. A new rival is one file in `rivals/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pipeline.evaluation.record import Recorder
from pipeline.learning.learner import TOP, Batch
from pipeline.learning.ranks import Ranks, rank_of


@dataclass
class Cpu:
    """Processor seconds of this process, all its threads together."""

    asking: float = 0.0
    learning: float = 0.0

    def __add__(self, other: Cpu) -> Cpu:
        return Cpu(self.asking + other.asking, self.learning + other.learning)

    @property
    def total(self) -> float:
        """Both."""
        return self.asking + self.learning


class Rival(Protocol):
    """One way to recommend, with settings that share what it has learned; each setting is a contestant.

    A rival is never told that a user asked to be forgotten or was merged with
    another: no benchmark's stream holds that.
    """

    @property
    def family(self) -> str:
        """Under which its contestants are compared."""
        ...

    @property
    def settings(self) -> tuple[str, ...]:
        """The name of each setting, unique in the family."""
        ...

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] scores of the whole catalogue for the batch's questions; higher is better. Changes nothing."""
        ...

    def learn(self, batch: Batch, allowance: float) -> None:
        """Learn from the batch; a rival that is trained in batches may spend `allowance` CPU seconds on a fit."""
        ...

    def notes(self) -> dict[str, object]:
        """What a reader of the results should know beside the figures, as JSON."""
        ...


def contestants_of(rival: Rival) -> tuple[str, ...]:
    """Names of a rival's contestants: family and setting."""
    return tuple(f"{rival.family}:{setting}" if setting else rival.family for setting in rival.settings)


class Tournament:
    """Rivals that play along with the learner, and the CPU seconds of each.

    Ranking a list counts for nobody. What settings of one rival share is
    charged to each of them, as each would have to learn it alone.
    """

    def __init__(
        self,
        rivals: Sequence[Rival],
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        """`recorder` gets every prediction; `clock` gives CPU seconds."""
        self.rivals = tuple(rivals)
        self.recorder = recorder
        self.learner = Cpu()
        self._clock = clock
        self._asking = {name: 0.0 for rival in self.rivals for name in contestants_of(rival)}
        self._learning = [0.0] * len(self.rivals)

    @property
    def names(self) -> tuple[str, ...]:
        """All contestants but the learner."""
        return tuple(self._asking)

    def play(self, batch: Batch, ranks: Ranks, learner: Cpu) -> None:
        """Add the rivals' ranks to the learner's, let them learn; `learner` is what the learner spent on the batch."""
        self.learner += learner
        if len(batch.events) == 0:
            return
        for number, rival in enumerate(self.rivals):
            if len(ranks):
                self._ask(rival, batch, ranks)
            began = self._clock()
            rival.learn(batch, self.learner.total - self._spent(number))
            self._learning[number] += self._clock() - began
        if self.recorder is not None:
            self.recorder.add(ranks, batch)

    def report(self) -> dict[str, dict[str, object]]:
        """For each contestant, the learner among them, its family, CPU seconds and notes."""
        found: dict[str, dict[str, object]] = {"headrace": _told("headrace", self.learner, {})}
        for number, rival in enumerate(self.rivals):
            for name in contestants_of(rival):
                spent = Cpu(self._asking[name], self._learning[number])
                found[name] = _told(rival.family, spent, rival.notes())
        return found

    def _ask(self, rival: Rival, batch: Batch, ranks: Ranks) -> None:
        banned = batch.questions.banned
        banned_QI = banned.whole()
        for setting, name in enumerate(contestants_of(rival)):
            began = self._clock()
            score_QI = rival.scores(setting, batch)
            self._asking[name] += self._clock() - began
            if score_QI.shape != banned_QI.shape:
                raise AssertionError(f"{name}: scores of shape {tuple(score_QI.shape)}, not {tuple(banned_QI.shape)}")
            score_QI = score_QI.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
            ranks.rank_Q[name] = rank_of(score_QI, banned, batch.target_Q)
            ranks.top_QN[name] = shown(score_QI, banned_QI)

    def _spent(self, number: int) -> float:
        """CPU of a rival's dearest setting so far."""
        asked = max(self._asking[name] for name in contestants_of(self.rivals[number]))
        return asked + self._learning[number]


def shown(score_QI: Tensor, banned_QI: Tensor) -> Tensor:
    """[Q, n] the rows that a list would hold, in no order; -1 where fewer may stand."""
    score_QI = score_QI.masked_fill(banned_QI, -torch.inf)
    value_QN, rows_QN = torch.topk(score_QI, min(TOP, score_QI.shape[1]), dim=1, sorted=False)
    return rows_QN.masked_fill(value_QN == -torch.inf, -1)


def _told(family: str, spent: Cpu, notes: dict[str, object]) -> dict[str, object]:
    return {"family": family, "cpu_asking_s": spent.asking, "cpu_learning_s": spent.learning, **notes}
