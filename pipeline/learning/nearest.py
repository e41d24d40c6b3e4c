"""Which items' texts are nearest each item's: lists worked out when first asked for, and kept until they are wrong."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.banned import Banned, Rows
from pipeline.learning.batch import NO_ITEM
from pipeline.learning.clusters import LEVELS, Clusters
from pipeline.learning.ordering import best

LISTED = 48
AT_ONCE = 64
FEW = 256
"""So many vectors that change at once are compared with every list; more make all lists anew."""
INDEXED = 20_000
"""From so many vectors on, counted when the projection is fitted, a list is looked for in a few clusters alone."""
UNKNOWN = -1


class Nearest:
    """Of each item the LISTED others whose text vectors have the greatest cosine with its own, above 0.

    Vectors are rounded to whole numbers of -127 to 127: their products are exact
    in float32 in whatever order they are added. So a list depends on the vectors
    alone, not on when it was worked out, nor with which others: it is no state.
    In a large catalogue it depends on the clusters' centres besides, which are.
    """

    def __init__(self, width: int) -> None:
        self.clusters = Clusters(width)
        self._whole_IP = torch.zeros(64, width, dtype=torch.int8)
        self._slot_I = torch.full((64,), UNKNOWN, dtype=torch.int32)
        self._items = 0
        self._near_SN = torch.full((64, LISTED), NO_ITEM, dtype=torch.int32)
        self._cosine_SN = torch.zeros(64, LISTED)
        self._row_S = torch.full((64,), UNKNOWN, dtype=torch.int64)
        self._used = 0
        self._free: list[int] = []
        self._lock = threading.Lock()

    @property
    def indexed(self) -> bool:
        """Whether the catalogue is so large that questions look into few clusters."""
        return len(self.clusters) > 0

    def fit(self, vector_IP: Tensor) -> None:
        """All vectors are others now, by a projection that was fitted to so many."""
        self._take_all(vector_IP)
        if int((self._whole_IP[: self._items] != 0).any(1).sum()) >= INDEXED:
            self.clusters.fit(self._whole_IP[: self._items])
            self.clusters.fill(self._whole_IP[: self._items])

    def all_moved(self, vector_IP: Tensor) -> None:
        """All vectors are others now, the clusters' centres those that they were."""
        self._take_all(vector_IP)
        if self.indexed:
            self.clusters.fill(self._whole_IP[: self._items])

    def moved(self, rows: Tensor, vector_NP: Tensor) -> None:
        """These rows have (other) vectors now: lists that hold one, or now should, are no longer known."""
        self._items = max(self._items, int(rows.max()) + 1)
        self._grow()
        self._whole_IP[rows] = whole_numbers(vector_NP)
        if self.indexed:
            self.clusters.move(rows, self._whole_IP[: self._items])
        if len(rows) > FEW:
            self.forget()
            return
        self._forget(rows)
        kept = torch.nonzero(self._row_S >= 0).flatten()
        if len(kept) == 0:
            return
        last_K = self._cosine_SN[kept, -1].clamp(min=torch.finfo(torch.float32).tiny)
        product_KN = self._whole_IP[self._row_S[kept]].float() @ self._whole_IP[rows].float().T
        closer_K = product_KN.amax(1) / LEVELS**2 >= last_K
        held_K = torch.isin(self._near_SN[kept], rows.to(torch.int32)).any(1)
        self._forget(self._row_S[kept[closer_K | held_K]])

    def of(self, rows_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N] where each of these items' lists stands, -1 for none, in rows [S, LISTED] and their cosines.

        Nearest first, NO_ITEM past the last. Several threads may ask at a time.
        """
        known_N = (rows_N >= 0) & (rows_N < self._items)
        rows_N = torch.where(known_N, rows_N, 0)
        with self._lock:
            lacking = torch.unique(rows_N[known_N & (self._slot_I[rows_N] == UNKNOWN)])
            for start in range(0, len(lacking), AT_ONCE):
                self._work_out(lacking[start : start + AT_ONCE])
            return torch.where(known_N, self._slot_I[rows_N], UNKNOWN), self._near_SN, self._cosine_SN

    def _work_out(self, rows: Tensor) -> None:
        others = Banned(torch.ones(self._items, dtype=torch.bool), Rows.each(rows))
        if self.indexed:
            near_RN, product_RN = self.clusters.nearest(self._whole_IP[rows], others, LISTED)
            found_RN = product_RN / LEVELS**2
        else:
            cosine_RI = (self._whole_IP[rows].float() @ self._whole_IP[: self._items].float().T) / LEVELS**2
            near_RN, _ = best(cosine_RI, others, LISTED)
            found_RN = cosine_RI.gather(1, near_RN)
        good_RN = (found_RN > 0) & (near_RN != rows[:, None])
        size, slot_R = near_RN.shape[1], self._slots(rows)
        self._near_SN[slot_R, :size] = torch.where(good_RN, near_RN, NO_ITEM).to(torch.int32)
        self._cosine_SN[slot_R, :size] = found_RN * good_RN

    def _slots(self, rows: Tensor) -> Tensor:
        """Places for the lists of these rows, which have none."""
        again = [self._free.pop() for _ in range(min(len(rows), len(self._free)))]
        slot_R = torch.tensor([*again, *range(self._used, self._used + len(rows) - len(again))])
        self._used += len(rows) - len(again)
        self._near_SN = grown(self._near_SN, self._used, NO_ITEM)
        self._cosine_SN = grown(self._cosine_SN, self._used)
        self._row_S = grown(self._row_S, self._used, UNKNOWN)
        self._row_S[slot_R] = rows
        self._slot_I[rows] = slot_R.int()
        return slot_R

    def _forget(self, rows: Tensor) -> None:
        slots = self._slot_I[torch.unique(rows)]
        slots = slots[slots >= 0].long()
        self._free += slots.tolist()
        self._slot_I[rows] = UNKNOWN
        self._row_S[slots] = UNKNOWN
        self._near_SN[slots] = NO_ITEM
        self._cosine_SN[slots] = 0

    def forget(self) -> None:
        """No list is known."""
        self._slot_I.fill_(UNKNOWN)
        self._near_SN.fill_(NO_ITEM)
        self._cosine_SN.zero_()
        self._row_S.fill_(UNKNOWN)
        self._used, self._free = 0, []

    def _take_all(self, vector_IP: Tensor) -> None:
        self._items = len(vector_IP)
        self._grow()
        self._whole_IP[: self._items] = whole_numbers(vector_IP)
        self.forget()

    def _grow(self) -> None:
        self._whole_IP = grown(self._whole_IP, self._items)
        self._slot_I = grown(self._slot_I, self._items, UNKNOWN)


def whole_numbers(vector_NP: Tensor) -> Tensor:
    """Unit vectors as whole numbers of -127 to 127."""
    return (vector_NP * LEVELS).round().to(torch.int8)
