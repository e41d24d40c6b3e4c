"""Batch-trained models in a stream: refitted from everything so far as often as the learner's CPU time allows."""

# scipy has no types.
# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.batch import liked_of
from pipeline.learning.learner import Batch

FIRST_LIKES = 500
"""The first fit waits for this many likes and is paid for afterwards."""


class Likes:
    """Every like so far, in order: who, and what. Rows of users and items are the learner's."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor]] = []
        self.count = 0
        self.users = 0
        self.items = 0
        self.count_I = torch.zeros(64)

    def add(self, batch: Batch) -> None:
        """Note a micro-batch's."""
        rows = batch.seen.positive_B
        user_B, item_B = batch.events.user_B[rows], batch.events.item_B[rows]
        self._parts.append((user_B, item_B))
        self.count += len(user_B)
        self.users = max(self.users, int(batch.events.user_B.max()) + 1)
        self.items = max(self.items, int(batch.events.item_B.max()) + 1)
        self.count_I = grown(self.count_I, self.items)
        self.count_I.index_add_(0, item_B, torch.ones(len(item_B)))

    def columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[N] users and [N] items, in order."""
        self._parts = [(torch.cat([u for u, _ in self._parts]), torch.cat([i for _, i in self._parts]))]
        return self._parts[0][0].numpy(), self._parts[0][1].numpy()

    def matrix(self) -> csr_matrix:
        """[users, items], 1 where liked."""
        user_N, item_N = self.columns()
        return csr_matrix((np.ones(len(user_N), np.float32), (user_N, item_N)), shape=(self.users, self.items))

    def sequences(self) -> list[NDArray[np.int64]]:
        """Each user's likes, oldest first; users without any are left out."""
        user_N, item_N = self.columns()
        order = np.argsort(user_N, kind="stable")
        cuts = np.flatnonzero(np.diff(user_N[order])) + 1
        return [part for part in np.split(item_N[order], cuts) if len(part)]


class Model(Protocol):
    """A model that is trained on all likes at once and asked with a user's current history where it can be."""

    def fit(self, likes: Likes) -> None:
        """Train."""
        ...

    def scores(self, batch: Batch) -> Tensor:
        """[Q, I] scores for the batch's questions; items that came after the fit may score anything below others."""
        ...


class Refitted:
    """A model as a rival: fitted anew whenever its CPU seconds so far and the next fit's stay within the learner's.

    The next fit is expected to cost what the last did, in proportion to the
    likes. Users without a like get what was popular at the last fit.
    """

    def __init__(
        self, family: str, setting: str, model: Model, clock: Callable[[], float] = time.process_time
    ) -> None:
        self.family = family
        self.settings = (setting,)
        self._model = model
        self._clock = clock
        self._likes = Likes()
        self._popular_I = torch.zeros(64)
        self._refits: list[int] = []
        self._events = 0
        self._cost_per_like = 0.0
        self._fitting = 0.0

    def scores(self, setting: int, batch: Batch) -> Tensor:
        """[Q, I] by the last fit; 0 before the first."""
        questions, items = batch.questions.shape
        if not self._refits:
            return torch.zeros(questions, items)
        history = batch.questions.history
        blank_Q1 = ~(liked_of(history.code_QL) & history.item_here_QL).any(1, keepdim=True)
        self._popular_I = grown(self._popular_I, items)
        return torch.where(blank_Q1, self._popular_I[:items], self._model.scores(batch))

    def learn(self, batch: Batch, allowance: float) -> None:
        """Note the likes, and fit if that is within the allowance."""
        self._likes.add(batch)
        self._events += len(batch.events)
        affordable = not self._refits or self._cost_per_like * self._likes.count <= allowance
        if self._likes.count >= FIRST_LIKES and affordable:
            began = self._clock()
            self._model.fit(self._likes)
            spent = self._clock() - began
            self._fitting += spent
            self._cost_per_like = spent / self._likes.count
            self._popular_I = self._likes.count_I.clone()
            self._refits.append(self._events)

    def notes(self) -> dict[str, object]:
        """After which events it was fitted, and what fitting took."""
        return {"refits": len(self._refits), "refitted_after": self._refits, "cpu_fitting_s": self._fitting}


def padded(score_QM: Tensor, items: int) -> Tensor:
    """[Q, items] with items that were not there at the fit below all others."""
    questions, known = score_QM.shape
    if known >= items:
        return score_QM[:, :items]
    floor_Q1 = score_QM.amin(1, keepdim=True) - 1 if known else torch.zeros(questions, 1)
    return torch.cat([score_QM, floor_Q1.expand(-1, items - known)], dim=1)


def last_likes(batch: Batch, most: int, below: int) -> list[NDArray[np.int64]]:
    """For each question the rows of its user's last likes, at most `most`, oldest first, of rows under `below`."""
    history = batch.questions.history
    meant_QL = (liked_of(history.code_QL) & history.item_here_QL & (history.item_QL < below)).numpy()
    item_QL = history.item_QL.numpy()
    return [row[meant][:most][::-1].astype(np.int64) for row, meant in zip(item_QL, meant_QL, strict=True)]
