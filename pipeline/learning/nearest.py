"""Which items' texts are nearest each item's: lists worked out when first asked for, and kept until they are wrong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.learning.arena import grown
from pipeline.learning.banned import Banned, Rows
from pipeline.learning.batch import NO_ITEM
from pipeline.learning.ordering import best

LISTED = 48
LEVELS = 127.0
AT_ONCE = 64
FEW = 256
"""So many vectors that change at once are compared with every list; more make all lists anew."""


class Nearest:
    """Of each item the LISTED others whose text vectors have the greatest cosine with its own, above 0.

    Vectors are rounded to whole numbers of -127 to 127: their products are exact
    in float32 in whatever order they are added. So a list depends on the vectors
    alone, not on when it was worked out, nor with which others: it is no state.
    """

    def __init__(self, width: int) -> None:
        self._whole_IP = torch.zeros(64, width)
        self._near_IN = torch.full((64, LISTED), NO_ITEM, dtype=torch.int32)
        self._cosine_IN = torch.zeros(64, LISTED)
        self._known_I = torch.zeros(64, dtype=torch.bool)
        self._items = 0

    def all_moved(self, vector_IP: Tensor) -> None:
        """All vectors are others now."""
        self._items = len(vector_IP)
        self._grow()
        self._whole_IP[: self._items] = (vector_IP * LEVELS).round()
        self._known_I.fill_(False)

    def moved(self, rows: Tensor, vector_NP: Tensor) -> None:
        """These rows have (other) vectors now: lists that hold one, or now should, are no longer known."""
        self._items = max(self._items, int(rows.max()) + 1)
        self._grow()
        self._whole_IP[rows] = (vector_NP * LEVELS).round()
        if len(rows) > FEW:
            self._known_I.fill_(False)
            return
        self._known_I[rows] = False
        kept = torch.nonzero(self._known_I).flatten()
        near_KN = self._near_IN[kept]
        last_K = self._cosine_IN[kept, -1].clamp(min=torch.finfo(torch.float32).tiny)
        closer_K = (self._whole_IP[kept] @ self._whole_IP[rows].T).amax(1) / LEVELS**2 >= last_K
        self._known_I[kept] = ~(closer_K | torch.isin(near_KN, rows.to(torch.int32)).any(1))

    def of(self, rows_N: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [I, LISTED], nearest first, NO_ITEM past the last, and their cosines; right of `rows_N` at least."""
        rows_N = rows_N[rows_N < self._items]
        lacking = torch.unique(rows_N[~self._known_I[rows_N]])
        for start in range(0, len(lacking), AT_ONCE):
            self._work_out(lacking[start : start + AT_ONCE])
        return self._near_IN, self._cosine_IN

    def _work_out(self, rows: Tensor) -> None:
        cosine_RI = (self._whole_IP[rows] @ self._whole_IP[: self._items].T) / LEVELS**2
        everybody, at = torch.ones(self._items, dtype=torch.bool), np.arange(len(rows))
        near_RN, _ = best(cosine_RI, Banned(everybody, Rows(at, at + 1, rows.int().numpy())), LISTED)
        found_RN = cosine_RI.gather(1, near_RN)
        good_RN = (found_RN > 0) & (near_RN != rows[:, None])
        size = near_RN.shape[1]
        self._near_IN[rows, :size] = torch.where(good_RN, near_RN, NO_ITEM).to(torch.int32)
        self._cosine_IN[rows, :size] = found_RN * good_RN
        self._known_I[rows] = True

    def _grow(self) -> None:
        self._whole_IP = grown(self._whole_IP, self._items)
        self._near_IN = grown(self._near_IN, self._items, NO_ITEM)
        self._cosine_IN = grown(self._cosine_IN, self._items)
        self._known_I = grown(self._known_I, self._items)
