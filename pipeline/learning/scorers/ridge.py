"""Online ridge regression of items on items (EASE), solved again every so often over the most liked ones."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning import ridge_kernels
from pipeline.learning.arena import grown
from pipeline.learning.batch import Questions
from pipeline.learning.ordering import best
from pipeline.learning.scorer import Answer, Column, EmptyAnswer, Observation
from pipeline.learning.users import Users

ITEMS = 1024
EVERY = 2048
PENALTY = 300.0
MOST_USERS = 20_000
DECAY = 0.97
OTHERS = 0.3


class Ridge:
    """Embarrassingly shallow autoencoder (Steck 2019), bounded: B = I - P / diag(P), P = (X'X + penalty)^-1.

    X is users by the ITEMS most liked items, from the kept histories of the
    users who acted last: it forgets as they do, and erases whom they erase.
    An item without a row in B scores 0. Solved after every EVERY events that
    teach, in tens of milliseconds.
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
        return _Covered(score_QR, self.item_R, self._slot_I, questions.banned_QI.shape[1])

    def observe(self, seen: Observation) -> None:
        """Count likes; solve when it is due."""
        rows = seen.events.item_B[seen.positive_B]
        self.likes_I.index_add_(0, rows, torch.ones(len(rows)))
        self.due += int(seen.learn_B.sum())
        if int(self.due) >= self._every:
            self.due.zero_()
            self._solve()

    def forget(self, user: int) -> None:
        """The next solution does without the user's history."""

    def state(self) -> dict[str, Tensor]:
        """The solution, the items it covers, and the likes until the next one."""
        names = ("likes_I", "item_R", "weight_RR", "due")
        return {name: getattr(self, name) for name in names}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        for name, tensor in tensors.items():
            setattr(self, name, tensor.clone())
        self._place()

    def _place(self) -> None:
        """Which row of the solution an item has, -1 for none."""
        self._slot_I = torch.full((len(self.likes_I),), -1, dtype=torch.int64)
        self._slot_I[self.item_R] = torch.arange(len(self.item_R))

    def _solve(self) -> None:
        most = min(ITEMS, int((self.likes_I > 0).sum()))
        self.item_R = torch.argsort(self.likes_I, descending=True, stable=True)[:most].sort().values
        self._place()
        latest = torch.argsort(self._users.last_time_U, descending=True, stable=True)[:MOST_USERS]
        gram_RR = torch.eye(most) * PENALTY
        for start in range(0, len(latest), 1024):
            history, _ = self._users.windows(latest[start : start + 1024], 0)
            ridge_kernels.add_pairs(
                self._slot_I.numpy(), history.item_QL.numpy(), history.code_QL.numpy(), gram_RR.numpy()
            )
        # Of a symmetric matrix the factor is half of the work, and the inverse is symmetric to the last bit.
        inverse_RR = torch.cholesky_inverse(torch.linalg.cholesky(gram_RR))
        # Row by row: a snapshot keeps no strides, and products of another layout round otherwise.
        self.weight_RR = (-inverse_RR / inverse_RR.diagonal()).contiguous()
        self.weight_RR.fill_diagonal_(0)


class _Covered:
    """Scores of the items that the solution covers; 0 for all others. Only what is above 0 is proposed."""

    def __init__(self, score_QR: Tensor, item_R: Tensor, slot_I: Tensor, items: int) -> None:
        self._score_QR = score_QR
        self._item_R = item_R
        self._slot_I = slot_I
        self._items = items

    def propose(self, column: int, n: int, banned_QI: Tensor) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        place_QN, meant_QN = best(self._score_QR, self._banned(banned_QI), n)
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

    def _banned(self, banned_QI: Tensor) -> Tensor:
        """[Q, R] which covered items may not be answered: what is newer than the question, too."""
        newer_R = self._item_R >= self._items
        known_R = self._item_R.clamp(max=self._items - 1)
        return torch.from_numpy(banned_QI.numpy().take(known_R.numpy(), axis=1)) | newer_R
