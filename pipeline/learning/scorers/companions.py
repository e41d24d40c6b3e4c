"""User neighbours: what people who lately liked the same things liked, found through each item's latest admirers."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.batch import Questions
from pipeline.learning.paging import Slotted
from pipeline.learning.ring_kernels import place_for
from pipeline.learning.rings import Rings
from pipeline.learning.scorer import Column, Observation
from pipeline.learning.scratch import Scratch
from pipeline.learning.sparse import SparseAnswer, room_for
from pipeline.learning.sparse_kernels import key_of, put_best
from pipeline.learning.users import Users

ADMIRERS = 256
LIKES = 100
LOOK_BACK = 50
DECAY = 0.95
COMPANIONS = 60
SHRINK = 3.0
NAMES = ("written_I", "likes_U")


@njit(cache=True, nogil=True)
def admire(admirers, written_I, liked, slot_U, likes_U, item_B, user_B, positive_B):
    """Note who liked what, in each item's ring of its latest admirers and each user's of their latest likes."""
    for b in range(item_B.shape[0]):
        if positive_B[b]:
            item, user = item_B[b], user_B[b]
            admirers.word_NW[place_for(admirers, item, written_I[item]), 0] = user
            written_I[item] += 1
            liked.word_NW[place_for(liked, slot_U[user], likes_U[user]), 0] = item
            likes_U[user] += 1


@njit(cache=True, nogil=True)
def unmet(admirers, written_I, user):
    """Put nobody wherever a user is met."""
    for item in range(written_I.shape[0]):
        begin = admirers.begin_S[item]
        for place in range(begin, begin + min(written_I[item], admirers.length)):
            if admirers.word_NW[place, 0] == user:
                admirers.word_NW[place, 0] = -1


@njit(cache=True, nogil=True)
def nearest(
    admirers, written_I, likes_U, user_Q, item_QL, code_QL, decay_L, shrink, near_U, found_QK, score_QK
):  # fmt: skip
    """The K nearest users of each history and their similarity, the nearest first, -1 past the last.

    Similarity of user v to a history: sum of decay^lag over the likes they share / (sqrt(likes of v) + shrink).
    `near_U` is 0 everywhere, and so it is again afterwards.
    """
    most, room = found_QK.shape[1], min(likes_U.shape[0], admirers.length * decay_L.shape[0])
    met, score, key = np.empty(room, np.int32), np.empty(room, np.float32), np.empty(room, np.int64)
    best, there = np.empty(most, np.int64), np.empty(most, np.bool_)
    for q in range(item_QL.shape[0]):
        size = 0
        for lag in range(min(item_QL.shape[1], decay_L.shape[0])):
            item = item_QL[q, lag]
            if item < 0 or not code_QL[q, lag] & 1:
                continue
            for n in range(min(written_I[item], admirers.length)):
                user = admirers.word_NW[admirers.begin_S[item] + n, 0]
                if user < 0 or user == user_Q[q]:
                    continue
                if near_U[user] == 0:
                    met[size] = user
                    size += 1
                near_U[user] += decay_L[lag]
        for k in range(size):
            user = met[k]
            score[k] = near_U[user] / (np.sqrt(likes_U[user]) + shrink)
            key[k] = key_of(score[k], k)
            near_U[user] = 0
        put_best(key, size, best, there)
        for place in range(most):
            found_QK[q, place] = met[best[place]] if there[place] else -1
            score_QK[q, place] = score[best[place]] if there[place] else np.float32(0)


@njit(cache=True, nogil=True)
def liked_by(
    found_QK, score_QK, liked, at_QK, cold_NL, likes_U, items, sum_I, start_Q, size_Q, row_T, score_T1,
):  # fmt: skip
    """The items that found users like, each with the sum of their similarities.

    What users at -1 - n like is row n of `cold_NL`. `sum_I` is 0 everywhere, and so it is again afterwards.
    """
    end = 0
    for q in range(found_QK.shape[0]):
        start_Q[q] = end
        for k in range(found_QK.shape[1]):
            user, at = found_QK[q, k], at_QK[q, k]
            if user < 0:
                break
            for n in range(min(likes_U[user], liked.length)):
                item = liked.word_NW[liked.begin_S[at] + n, 0] if at >= 0 else cold_NL[-1 - at, n]
                if item < items:
                    if sum_I[item] == 0:
                        row_T[end] = item
                        end += 1
                    sum_I[item] += score_QK[q, k]
        size_Q[q] = end - start_Q[q]
        for t in range(start_Q[q], end):
            score_T1[t, 0] = sum_I[row_T[t]]
            sum_I[row_T[t]] = 0


class Companions:
    """User-based neighbours as in session kNN (Ludewig & Jannach 2018): recent, sampled, bounded.

    Users are met through the ADMIRERS latest likers of each of the last
    LOOK_BACK liked items, so that a question costs the same however many users
    there are. Likes are kept here once more: the users' own histories already
    hold the micro-batch that is being predicted. Those of users who are paged
    out are looked up in their records.
    """

    name = "companions"
    columns = (Column("companions", proposes=30),)

    def __init__(self, users: Users) -> None:
        self._users = users
        self.admirers = Rings(ADMIRERS, words=1)
        self.written_I = torch.zeros(64, dtype=torch.int32)
        self.liked = Rings(LIKES, words=1)
        self.likes_U = torch.zeros(64, dtype=torch.int32)
        users.slotted.append(Slotted("liked", self.liked, self._held))
        self._sums = Scratch(0, np.float32)
        self._near = Scratch(0, np.float32)
        self._decay = (DECAY ** np.arange(LOOK_BACK)).astype(np.float32)

    def resize(self, items: int, users: int) -> None:
        """Make room."""
        self.admirers.grow(items)
        self.written_I = grown(self.written_I, items)
        self.likes_U = grown(self.likes_U, users)

    def ask(self, questions: Questions) -> SparseAnswer:
        """Score what the nearest users like."""
        items, history = questions.shape[1], questions.history
        found_QK = np.empty((len(questions), COMPANIONS), dtype=np.int64)
        score_QK = np.empty((len(questions), COMPANIONS), dtype=np.float32)
        nearest(
            self.admirers.ring(), self.written_I.numpy(), self.likes_U.numpy(), questions.user_Q.numpy(),
            history.item_QL.numpy(), history.code_QL.numpy(), self._decay, np.float32(SHRINK),
            self._near.of(len(self.likes_U)), found_QK, score_QK,
        )  # fmt: skip
        at_QK, cold_NL = self._likes(found_QK)
        likes_U = self.likes_U.numpy()
        listed = room_for(np.minimum(likes_U[found_QK], LIKES).sum(1, where=found_QK >= 0), items, 1)
        liked_by(
            found_QK, score_QK, self.liked.ring(), at_QK, cold_NL, likes_U, items, self._sums.of(items),
            listed.start_Q, listed.size_Q, listed.row_T, listed.score_TS,
        )  # fmt: skip
        return SparseAnswer(listed, items)

    def _likes(self, found_QK: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where the likes of users are: their slot, or -1 - n for the n-th row of those that are read from records."""
        at_QK = self._users.slot_U.numpy()[found_QK].astype(np.int64)
        is_cold_QK = (at_QK < 0) & (found_QK >= 0)
        cold = np.unique(found_QK[is_cold_QK])
        if len(cold) == 0:
            return at_QK, np.zeros((0, LIKES), dtype=np.int32)
        at_QK[is_cold_QK] = -1 - np.searchsorted(cold, found_QK[is_cold_QK])
        cold_NL = np.zeros((len(cold), LIKES), dtype=np.int32)
        for n, words in enumerate(self._users.paging.peek(cold, "liked")):
            cold_NL[n, : len(words)] = words
        return at_QK, cold_NL

    def _held(self, user: int) -> int:
        return min(int(self.likes_U[user]), LIKES)

    def observe(self, seen: Observation) -> None:
        """Note who liked what."""
        positive_B = seen.positive_B
        self.liked.reserve(self._users.slot_U.numpy()[seen.events.user_B[positive_B].numpy()])
        self.admirers.reserve(seen.events.item_B[positive_B].numpy())
        admire(
            self.admirers.ring(), self.written_I.numpy(), self.liked.ring(),
            self._users.slot_U.numpy(), self.likes_U.numpy(),
            seen.events.item_B.numpy(), seen.events.user_B.numpy(), positive_B.numpy(),
        )  # fmt: skip

    def forget(self, user: int) -> None:
        """Nobody meets the user any more."""
        unmet(self.admirers.ring(), self.written_I.numpy(), user)
        if user < len(self.likes_U):
            self.likes_U[user] = 0

    def state(self) -> dict[str, Tensor]:
        """Who liked an item and what a user liked, lately."""
        own = {name: getattr(self, name) for name in NAMES}
        return own | self.liked.state("liked") | self.admirers.state("admirers")

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name in NAMES:
            setattr(self, name, tensors[name].clone())
        self.liked.load("liked", tensors)
        self.admirers.load("admirers", tensors)
