"""The loop over pairs of liked items in each user's history."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def add_pairs(slot_UL, gram_RR):
    """X'X added: 1 for each ordered pair of a row's slots (-1 for none), an item with itself too.

    Counts, so exact in any order; histories are short beside the items that
    are covered, of which a matrix product would take all pairs.
    """
    kept = np.empty(slot_UL.shape[1], np.int64)
    for u in range(slot_UL.shape[0]):
        n = 0
        for place in range(slot_UL.shape[1]):
            if slot_UL[u, place] >= 0:
                kept[n] = slot_UL[u, place]
                n += 1
        for a in range(n):
            for b in range(n):
                gram_RR[kept[a], kept[b]] += np.float32(1.0)
