"""The micro-batch as tensors, and the axes that every tensor name in `learning` uses.

B events of a micro-batch · Q questions (what would this user like next?) ·
I rows of the catalogue · U rows of users · L history positions, lag 0 first ·
T positions of a sequence, oldest first · C candidates · K feature columns ·
D width of the interest model · P principal components of a text vector ·
X context features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.learning import kernels
from pipeline.learning.banned import Banned
from pipeline.learning.circumstances import Told

NO_ITEM = -1
"""In a history: nothing there. Below it, `-2 - n` is the n-th text vector."""

LEVELS = 8
TYPES = 64


def pack_code(kind: int, level: int, liked: bool, consumes: bool, disliked: bool = False) -> int:
    """What a history entry was, in 12 bits: disliked, event type (6), strength level (3), consumes, liked.

    >>> pack_code(5, 3, True, False), pack_code(0, 0, False, False, disliked=True)
    (173, 2048)
    """
    return int(disliked) << 11 | kind << 5 | level << 2 | int(consumes) << 1 | int(liked)


def liked_of(code: Tensor) -> Tensor:
    """Whether an entry was positive."""
    return (code & 1).bool()


def disliked_of(code: Tensor) -> Tensor:
    """Whether an entry was the opposite of positive, not just without a like."""
    return (code >> 11 & 1).bool()


def consumes_of(code: Tensor) -> Tensor:
    """Whether an entry consumed its item."""
    return (code >> 1 & 1).bool()


def level_of(code: Tensor) -> Tensor:
    """Strength level, 0 (none given) to 7."""
    return code >> 2 & 7


def kind_of(code: Tensor) -> Tensor:
    """Row of the event type."""
    return code >> 5 & 63


@dataclass(frozen=True)
class History:
    """What users had done, lag 0 the latest. Rows are questions or events."""

    item_QL: Tensor
    code_QL: Tensor
    time_QL: Tensor
    count_Q: Tensor

    def __getitem__(self, rows: Tensor) -> History:
        return History(self.item_QL[rows], self.code_QL[rows], self.time_QL[rows], self.count_Q[rows])

    @property
    def item_here_QL(self) -> Tensor:
        """Positions that hold an item (not a text, not nothing)."""
        return self.item_QL >= 0


@dataclass(frozen=True)
class Interactions:
    """A micro-batch of events in their order.

    `item_B` is NO_ITEM for events without one. `level_B`, `code_B` as in
    `pack_code`; `time_B` in ms; `signal_B` how much the event teaches.
    """

    user_B: Tensor
    item_B: Tensor
    code_B: Tensor
    time_B: Tensor
    liked_B: Tensor
    consumes_B: Tensor
    signal_B: Tensor
    value_B: Tensor

    def __len__(self) -> int:
        return self.user_B.shape[0]


@dataclass(frozen=True)
class Shown:
    """What users were shown during a micro-batch: N items in order.

    `before_N` is how many events of the batch came first, `place_N` where the
    item stood (0: not told, 1 the first), `time_N` in ms.
    """

    before_N: Tensor
    user_N: Tensor
    item_N: Tensor
    place_N: Tensor
    time_N: Tensor

    def __len__(self) -> int:
        return self.item_N.shape[0]


def nothing_shown() -> Shown:
    """A micro-batch without impressions."""
    return Shown(*(torch.zeros(0, dtype=torch.int64) for _ in range(5)))


@dataclass(frozen=True)
class Questions:
    """Whose next like is asked for, from what is known before it.

    `banned` is what may not be answered: consumed, withdrawn, expired,
    filtered. `told` is what the users last said of their circumstances.
    """

    user_Q: Tensor
    history: History
    banned: Banned
    told: Told | None = None

    def __len__(self) -> int:
        return self.user_Q.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """How many questions there are, and how many rows to answer with."""
        return len(self), self.banned.items


def top(scores_QI: Tensor, n: int) -> Tensor:
    """[Q, n] rows of the greatest scores, greatest first; equal scores in row order.

    >>> top(torch.tensor([[1., 3., 3., 2.]]), 3).tolist()
    [[1, 2, 3]]
    """
    n = min(n, scores_QI.shape[1])
    value_QN, found = torch.topk(scores_QI, n, dim=1, sorted=False)
    if n > 0:
        # Of the scores that equal the last one taken topk takes any.
        last_Q1 = value_QN.amin(1, keepdim=True)
        above_Q = (value_QN > last_Q1).sum(1)
        kernels.first_of_equals(scores_QI.contiguous().numpy(), last_Q1.numpy(), above_Q.numpy(), found.numpy())
    order = torch.argsort(scores_QI.gather(1, found), dim=1, descending=True, stable=True)
    return found.gather(1, order)
