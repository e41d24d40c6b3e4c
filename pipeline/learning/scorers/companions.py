"""User neighbours: what people who lately liked the same things liked, found through each item's latest admirers."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.batch import Questions
from pipeline.learning.scorer import Column, DenseAnswer, Observation

ADMIRERS = 256
LIKES = 100
LOOK_BACK = 50
DECAY = 0.95
COMPANIONS = 60
SHRINK = 3.0


@njit(cache=True, nogil=True)
def admire(admirer_IR, written_I, liked_UL, likes_U, item_B, user_B, positive_B):
    """Note who liked what, in each item's ring of its latest admirers and each user's of their latest likes."""
    slots, length = admirer_IR.shape[1], liked_UL.shape[1]
    for b in range(item_B.shape[0]):
        if positive_B[b]:
            item, user = item_B[b], user_B[b]
            admirer_IR[item, written_I[item] % slots] = user
            written_I[item] += 1
            liked_UL[user, likes_U[user] % length] = item
            likes_U[user] += 1


@njit(cache=True, nogil=True)
def companions(
    admirer_IR, written_I, liked_UL, likes_U, user_Q, item_QL, code_QL, decay_L, most, shrink, out_QI
):
    """Sum over the `most` nearest users of similarity, into each item that they like.

    Similarity of user v to a history: sum of decay^lag over the likes they share / (sqrt(likes of v) + shrink).
    """
    near = np.zeros(likes_U.shape[0], np.float32)
    met = np.zeros(likes_U.shape[0], np.int32)
    slots, length = admirer_IR.shape[1], liked_UL.shape[1]
    for q in range(item_QL.shape[0]):
        n = 0
        for lag in range(min(item_QL.shape[1], decay_L.shape[0])):
            item = item_QL[q, lag]
            if item < 0 or not code_QL[q, lag] & 1:
                continue
            for s in range(min(written_I[item], slots)):
                user = admirer_IR[item, s]
                if user < 0 or user == user_Q[q]:
                    continue
                if near[user] == 0:
                    met[n] = user
                    n += 1
                near[user] += decay_L[lag]
        found = met[:n]
        score = np.empty(n, np.float32)
        for k in range(n):
            user = found[k]
            score[k] = near[user] / (np.sqrt(likes_U[user]) + shrink)
            near[user] = 0
        order = np.argsort(-score, kind="mergesort")
        for k in order[:most]:
            user = found[k]
            for slot in range(min(likes_U[user], length)):
                item = liked_UL[user, slot]
                if item < out_QI.shape[1]:
                    out_QI[q, item] += score[k]


class Companions:
    """User-based neighbours as in session kNN (Ludewig & Jannach 2018): recent, sampled, bounded.

    Users are met through the ADMIRERS latest likers of each of the last
    LOOK_BACK liked items, so that a question costs the same however many users
    there are. Likes are kept here once more: the users' own histories already
    hold the micro-batch that is being predicted.
    """

    name = "companions"
    columns = (Column("companions", proposes=30),)

    def __init__(self) -> None:
        self.admirer_IR = torch.full((64, ADMIRERS), -1, dtype=torch.int32)
        self.written_I = torch.zeros(64, dtype=torch.int32)
        self.liked_UL = torch.zeros(64, LIKES, dtype=torch.int32)
        self.likes_U = torch.zeros(64, dtype=torch.int32)
        self._decay = (DECAY ** np.arange(LOOK_BACK)).astype(np.float32)

    def resize(self, items: int, users: int) -> None:
        """Make room."""
        self.admirer_IR = grown(self.admirer_IR, items, -1)
        self.written_I = grown(self.written_I, items)
        self.liked_UL = grown(self.liked_UL, users)
        self.likes_U = grown(self.likes_U, users)

    def ask(self, questions: Questions) -> DenseAnswer:
        """Score what the nearest users like."""
        out_QI = torch.zeros(questions.banned_QI.shape)
        history = questions.history
        companions(
            self.admirer_IR.numpy(), self.written_I.numpy(), self.liked_UL.numpy(), self.likes_U.numpy(),
            questions.user_Q.numpy(), history.item_QL.numpy(), history.code_QL.numpy(),
            self._decay, COMPANIONS, np.float32(SHRINK), out_QI.numpy(),
        )  # fmt: skip
        return DenseAnswer([out_QI], len(questions))

    def observe(self, seen: Observation) -> None:
        """Note who liked what."""
        admire(
            self.admirer_IR.numpy(), self.written_I.numpy(), self.liked_UL.numpy(), self.likes_U.numpy(),
            seen.events.item_B.numpy(), seen.events.user_B.numpy(), seen.positive_B.numpy(),
        )  # fmt: skip

    def forget(self, user: int) -> None:
        """Nobody meets the user any more."""
        self.admirer_IR[self.admirer_IR == user] = -1
        if user < len(self.likes_U):
            self.likes_U[user] = 0
            self.liked_UL[user] = 0

    def state(self) -> dict[str, Tensor]:
        """Who liked an item and what a user liked, lately."""
        names = ("admirer_IR", "written_I", "liked_UL", "likes_U")
        return {name: getattr(self, name) for name in names}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor.clone())
