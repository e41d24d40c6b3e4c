"""Answers that name few items of each question, and orders that all questions share: cost bounded in the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.learning import sparse_kernels as kernels
from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM
from pipeline.learning.scratch import Scratch

FEW = 8_192
"""In a catalogue of so many items it is as soon done to put them in order anew."""

CARRIED = 4_096
"""So many first rows are carried from one order to the next, at most."""

SPARE = 512
"""Rows of a shared order beyond those wanted, for what is banned to one user or another."""


@dataclass(frozen=True)
class Listed:
    """Question q's items are rows `start_Q[q]` to `start_Q[q] + size_Q[q]` of `row_T`, with S scores >= 0 each."""

    start_Q: NDArray[np.int64]
    size_Q: NDArray[np.int64]
    row_T: NDArray[np.int32]
    score_TS: NDArray[np.float32]


def room_for(most_Q: NDArray[np.int64], items: int, scores: int) -> Listed:
    """Room for at most so many items of each question."""
    questions, total = len(most_Q), int(np.minimum(most_Q, items).sum())
    return Listed(
        np.empty(questions, np.int64), np.empty(questions, np.int64), np.empty(total, np.int32),
        np.empty((total, scores), np.float32),
    )  # fmt: skip


class SparseAnswer:
    """Of all items that it does not name it says 0. Scores are at least 0."""

    _place = Scratch(-1, np.int64)

    def __init__(self, listed: Listed, items: int, proposes: Sequence[int] = ()) -> None:
        """`proposes` are how many rows each column will be asked for: they are found together, at the first."""
        self._listed = listed
        self._items = items
        self._together = {column: n for column, n in enumerate(proposes) if n}
        self._asked: Banned | None = None
        self._best: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def propose(self, column: int, n: int, banned: Banned) -> tuple[Tensor, Tensor]:
        """[Q, n] best rows, and whether each is meant."""
        if banned is not self._asked:
            self._asked, self._best = banned, {}
        if (column, n) not in self._best:
            together = self._together if self._together.get(column) == n else {column: n}
            self._best |= self._find(together, banned)
        return self._best[column, n]

    def _find(self, wanted: dict[int, int], banned: Banned) -> dict[tuple[int, int], tuple[Tensor, Tensor]]:
        """The best rows of several columns: an item is looked at once."""
        listed, wanted_P = self._listed, [min(n, banned.items) for n in wanted.values()]
        found_QN, meant_QN = places(banned, sum(wanted_P), sum(wanted_P))
        kernels.best_listed(
            listed.start_Q, listed.size_Q, listed.row_T, listed.score_TS, np.array([*wanted]), np.array(wanted_P),
            banned.arrays(), found_QN.numpy(), meant_QN.numpy(),
        )  # fmt: skip
        parts = zip(torch.split(found_QN, wanted_P, 1), torch.split(meant_QN, wanted_P, 1), strict=True)
        return dict(zip(wanted.items(), parts, strict=True))

    def at(self, rows_QC: Tensor) -> Tensor:
        """[Q, C, S] scores of these rows."""
        listed = self._listed
        out_QCS = torch.empty(*rows_QC.shape, listed.score_TS.shape[1])
        kernels.look_up(
            listed.start_Q, listed.size_Q, listed.row_T, listed.score_TS, rows_QC.numpy(),
            self._place.of(self._items), out_QCS.numpy(),
        )  # fmt: skip
        return out_QCS

    def ranked(self, column: int, banned: Banned, target_Q: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """[Q] each target's rank in the whole catalogue and [Q, n] its first rows, as `ranks.rank_of` and `best`."""
        rows_QN, meant_QN = self.propose(column, n, banned)
        top_QN, rank_Q = torch.where(meant_QN, rows_QN, NO_ITEM), torch.empty_like(target_Q)
        listed = self._listed
        kernels.rank_listed(
            listed.start_Q, listed.size_Q, listed.row_T, listed.score_TS, column, banned.arrays(),
            banned.left().numpy(), target_Q.numpy(), rank_Q.numpy(), top_QN.numpy(),
        )  # fmt: skip
        return rank_Q, top_QN

    def whole(self, column: int) -> Tensor:
        """[Q, I] the column."""
        listed = self._listed
        out_QI = torch.zeros(len(listed.start_Q), self._items)
        kernels.spread(listed.start_Q, listed.size_Q, listed.row_T, listed.score_TS, column, out_QI.numpy())
        return out_QI


class Order:
    """Items by a score that all questions share, put in order once: as far as is asked for."""

    def __init__(self, score_I: Tensor, gain: float = 1.0, known_N: NDArray[np.int64] | None = None) -> None:
        """Scores not NaN; what is -inf or 0 is meant by nobody. `known_N` are the first rows, where they are known.

        `gain`: by how much they are greater than what they stand for.
        """
        self.score_I = score_I
        self.items = len(score_I)
        self._gain = gain
        self._sorted_N = np.zeros(0, np.int64) if known_N is None else known_N

    def told_again(self, score_I: Tensor, gain: float) -> None:
        """The same scores, or all of them greater by the same factor."""
        self.score_I, self._gain = score_I, gain

    def counts(self, rows: Tensor | NDArray[np.int64]) -> Tensor:
        """What the scores of these rows stand for."""
        return self.score_I[rows] / self._gain

    def first(self, n: int) -> NDArray[np.int64]:
        """At least the first n rows, or all."""
        if len(self._sorted_N) < min(n, self.items):
            self._sorted_N = falling(self.score_I.numpy(), n)
        return self._sorted_N

    def walk(self, n: int, kernel: Callable[[NDArray[np.int64], bool], bool]) -> None:
        """Give a kernel the order, a longer one for as long as it says that it was too short for n."""
        size = n + SPARE
        while True:
            order_N = self.first(size)
            if kernel(order_N, len(order_N) == self.items):
                return
            size = 4 * len(order_N)

    def best(self, banned: Banned, n: int) -> tuple[Tensor, Tensor]:
        """As `ordering.best`."""
        found_QN, meant_QN = places(banned, n)

        def take(order_N: NDArray[np.int64], complete: bool) -> bool:
            there_N = self.score_I.numpy()[order_N]
            good_N = (there_N != 0) & (there_N > -np.inf)
            enough = kernels.best_shared(
                order_N, good_N, complete, banned.arrays(), found_QN.numpy(), meant_QN.numpy()
            )
            return bool(enough)

        self.walk(found_QN.shape[1], take)
        return found_QN, meant_QN


class Rising:
    """Orders of the same scores at one time after another, of which in between only some rise.

    What did not rise keeps its order: the first rows are the best of those that were first and those that rose.

    >>> rising, score_I = Rising(), torch.zeros(9)
    >>> rising.raised(torch.tensor([7]))
    >>> score_I[7] = 2.0
    >>> rising.order(score_I).first(2).tolist()
    [7, 0]
    """

    def __init__(self) -> None:
        self._order: Order | None = None
        self._risen: list[NDArray[np.int64]] = []

    def raised(self, rows: Tensor) -> None:
        """These rows' scores rose, or others' of whom nothing was said yet are 0."""
        if len(rows):
            self._risen.append(rows.numpy())

    def forget(self) -> None:
        """All scores are others."""
        self._order, self._risen = None, []

    def order(self, score_I: Tensor, gain: float = 1.0) -> Order:
        """The order now; rows there were not before and that did not rise have score 0."""
        last, items = self._order, len(score_I)
        if last is not None and last.items == items and not self._risen:
            last.told_again(score_I, gain)
            return last
        known = np.zeros(0, np.int64) if last is None else last.first(0)[:CARRIED]
        if last is None or items <= FEW or items < last.items or len(known) >= last.items:
            self._order, self._risen = Order(score_I, gain), []
            return self._order
        risen = np.concatenate([*self._risen, np.zeros(0, np.int64)])
        rows = np.union1d(known, risen[risen < items])
        known = rows[falling(score_I.numpy()[rows], len(known))]
        self._order = Order(score_I, gain, known)
        self._risen = [risen[risen >= items]] if (risen >= items).any() else []
        return self._order


_sums = Scratch(-1, np.float32)


def fused(
    rows_QP: Tensor, meant_QP: Tensor, share_P: Tensor, filler: Callable[[Tensor], Tensor], order: Order,
    banned: Banned, n: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """[Q, n] rows of the greatest filler plus the shares of the places where they are meant; whether each may stand.

    The filler is above 0, and the greater the greater the order's score is, which it is made of.
    """
    found_QN, present_QN = places(banned, n)
    filler_QP = filler(order.counts(rows_QP))

    def take(order_N: NDArray[np.int64], complete: bool) -> bool:
        enough = kernels.fuse(
            rows_QP.numpy(), meant_QP.numpy(), share_P.numpy(), filler_QP.numpy(),
            filler(order.counts(order_N)).numpy(), order_N, complete, banned.arrays(), _sums.of(order.items),
            found_QN.numpy(), present_QN.numpy(),
        )  # fmt: skip
        return bool(enough)

    order.walk(found_QN.shape[1], take)
    return found_QN, present_QN


def falling(score_I: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """The rows of the n greatest scores, greatest first, of equals the first ones.

    >>> falling(np.array([1.0, 3.0, -1.0, 3.0], dtype=np.float32), 3).tolist()
    [1, 3, 0]
    """
    # As whole numbers floats are in order if of negative ones all bits but the sign are turned.
    bits_I = (score_I + np.float32(0)).view(np.int32)
    key_I = np.where(bits_I >= 0, bits_I, bits_I ^ 0x7FFFFFFF).astype(np.int64) << 32
    key_I |= np.arange(len(score_I) - 1, -1, -1)
    if n == 0:
        return np.zeros(0, np.int64)
    if len(key_I) > 4 * n:
        key_I = np.partition(key_I, len(key_I) - n)[len(key_I) - n :]
    return len(score_I) - 1 - (np.sort(key_I)[::-1][:n] & 0x7FFFFFFF)


def places(banned: Banned, n: int, most: int | None = None) -> tuple[Tensor, Tensor]:
    """Room for n proposed rows of each question, at most so many as there are (or `most`); whether each is meant."""
    shape = (len(banned), min(n, banned.items if most is None else most))
    return torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.bool)
