"""Online ridge regression of items on items (EASE), solved again every so often over the most liked ones."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from pipeline.learning import ridge_kernels
from pipeline.learning.arena import grown
from pipeline.learning.banned import Banned
from pipeline.learning.batch import History, Questions, top
from pipeline.learning.ordering import best
from pipeline.learning.scorer import Answer, Column, EmptyAnswer, Observation
from pipeline.learning.side_by_side import workers
from pipeline.learning.users import Users

ITEMS = 1024
EVERY = 2048
BESIDE = 512
"""Events that teach, from when a solution is begun until it is taken: as many as are learned while it is worked out."""
PENALTY = 300.0
MOST_USERS = 20_000
DECAY = 0.97
OTHERS = 0.3

Solution = tuple[Tensor, Tensor]
"""The items covered [R], ascending, and B [R, R]."""


class Ridge:
    """Embarrassingly shallow autoencoder (Steck 2019), bounded: B = I - P / diag(P), P = (X'X + penalty)^-1.

    X is users by the ITEMS most liked items, from the kept histories of the
    users who acted last: it forgets as they do, and erases whom they erase.
    An item without a row in B scores 0. Begun after every EVERY events that
    teach and worked out beside what is learned next, in tens of milliseconds;
    what is found counts from BESIDE such events later on, however long it took.
    """

    name = "ridge"
    columns = (Column("ridge", logarithmic=False, proposes=20),)

    def __init__(self, users: Users, every: int = EVERY) -> None:
        """`every` is how many events that teach lie between two solutions."""
        self._users = users
        self._every = every
        self.likes_I = torch.zeros(64)
        self._slot_I = torch.full((64,), -1, dtype=torch.int64)
        self.item_R = torch.zeros(0, dtype=torch.int64)
        self.weight_RR = torch.zeros(0, 0)
        self.due = torch.zeros(1, dtype=torch.int64)
        self._beside = min(BESIDE, every)
        self._next: Future[Solution] | None = None
        self._worker: ThreadPoolExecutor | None = None

    def resize(self, items: int, users: int) -> None:
        """Make room for items."""
        self.likes_I = grown(self.likes_I, items)
        self._slot_I = grown(self._slot_I, items, -1)

    def ask(self, questions: Questions) -> Answer:
        """The decayed history times B."""
        if len(self.item_R) == 0:
            return EmptyAnswer(len(self.columns), questions)
        history = questions.history
        decay_L = DECAY ** torch.arange(history.item_QL.shape[1])
        score_QR = torch.zeros(len(questions), len(self.item_R))
        ridge_kernels.add_rows(
            self._slot_I.numpy(), history.item_QL.numpy(), history.code_QL.numpy(),
            torch.stack([OTHERS * decay_L, decay_L]).numpy(), self.weight_RR.numpy(), score_QR.numpy(),
        )  # fmt: skip
        return _Covered(score_QR, self.item_R, self._slot_I, questions.shape[1])

    def observe(self, seen: Observation) -> None:
        """Count likes; solve when it is due."""
        rows = seen.events.item_B[seen.positive_B]
        self.likes_I.index_add_(0, rows, torch.ones(len(rows)))
        self.due += int(seen.learn_B.sum())
        if self._next is not None and int(self.due) >= self._beside:
            self.item_R, self.weight_RR = self._next.result()
            self._next = None
            self._place()
        if int(self.due) >= self._every:
            self.due.zero_()
            self._begin()

    def forget(self, user: int) -> None:
        """The next solution that is begun does without the user's history."""

    def state(self) -> dict[str, Tensor]:
        """The solution, the items it covers, and the likes until the next one; the next one where it is begun."""
        names = ("likes_I", "item_R", "weight_RR", "due")
        item_R, weight_RR = (self.item_R[:0], self.weight_RR[:0, :0]) if self._next is None else self._next.result()
        return {name: getattr(self, name) for name in names} | {"next_item_R": item_R, "next_weight_RR": weight_RR}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        found = own.pop("next_item_R"), own.pop("next_weight_RR")
        for name, tensor in own.items():
            setattr(self, name, tensor)
        self._next = None
        if len(found[0]) > 0:
            self._next = Future()
            self._next.set_result(found)
        self._place()

    def _place(self) -> None:
        """Which row of the solution an item has, -1 for none."""
        self._slot_I = _slots(self.item_R, len(self.likes_I))

    def _begin(self) -> None:
        most = min(ITEMS, int((self.likes_I > 0).sum()))
        item_R = top(self.likes_I[None], most)[0].sort().values
        history = self._users.histories_of(top(self._users.last_time_U[None], MOST_USERS)[0])
        if self._worker is None:
            self._worker = workers(1, "ridge")
        self._next = self._worker.submit(_solved, item_R, _slots(item_R, len(self.likes_I)), history)


def _slots(item_R: Tensor, items: int) -> Tensor:
    """[items] the place of each item among those covered, -1 for none."""
    slot_I = torch.full((items,), -1, dtype=torch.int64)
    slot_I[item_R] = torch.arange(len(item_R))
    return slot_I


def _solved(item_R: Tensor, slot_I: Tensor, history: History) -> Solution:
    """B over these items, which have the slots [I]."""
    gram_RR = torch.eye(len(item_R)) * PENALTY
    ridge_kernels.add_pairs(slot_I.numpy(), history.item_QL.numpy(), history.code_QL.numpy(), gram_RR.numpy())
    # Of a symmetric matrix the factor is half of the work, and the inverse is symmetric to the last bit.
    inverse_RR = torch.cholesky_inverse(torch.linalg.cholesky(gram_RR))
    # Row by row: a snapshot keeps no strides, and products of another layout round otherwise.
    weight_RR = (-inverse_RR / inverse_RR.diagonal()).contiguous()
    return item_R, weight_RR.fill_diagonal_(0)


class _Covered:
    """Scores of the items that the solution covers; 0 for all others. Only what is above 0 is proposed."""

    def __init__(self, score_QR: Tensor, item_R: Tensor, slot_I: Tensor, items: int) -> None:
        self._score_QR = score_QR
        self._item_R = item_R
        self._slot_I = slot_I
        self._items = items

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        place_QN, meant_QN = best(self._score_QR, self._banned(banned), n)
        return self._item_R[place_QN], meant_QN & (self._score_QR.gather(1, place_QN) > 0)

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, 1] scores of these rows."""
        slot_QC = self._slot_I[rows_QC]
        return torch.where(slot_QC >= 0, self._score_QR.gather(1, slot_QC.clamp(min=0)), 0)[:, :, None]

    def whole(self, column: int) -> Tensor:
        """[Q, I] the column."""
        out_QI = torch.zeros(len(self._score_QR), self._items)
        shown_R = self._item_R < self._items
        out_QI[:, self._item_R[shown_R]] = self._score_QR[:, shown_R]
        return out_QI

    def _banned(self, banned: Banned) -> Banned:
        """Which covered items may not be answered: what is newer than the question, too."""
        newer_R = self._item_R >= self._items
        covered_QR = self._item_R.clamp(max=self._items - 1).expand(len(banned), -1)
        return Banned.of(banned.at(covered_QR) | newer_R)
