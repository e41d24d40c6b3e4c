"""Loops over the covered items of each user's history: their pairs, and their rows of the solution."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def add_pairs(slot_I, item_UL, code_UL, gram_RR):
    """X'X added: 1 for each ordered pair of a row's liked items that have a slot (else -1), an item with itself too.

    Counts, so exact in any order; histories are short beside the items that
    are covered, of which a matrix product would take all pairs.
    """
    kept = np.empty(item_UL.shape[1], np.int64)
    for u in range(item_UL.shape[0]):
        n = 0
        for place in range(item_UL.shape[1]):
            item = item_UL[u, place]
            if item >= 0 and code_UL[u, place] & 1 and slot_I[item] >= 0:
                kept[n] = slot_I[item]
                n += 1
        for a in range(n):
            for b in range(n):
                gram_RR[kept[a], kept[b]] += np.float32(1.0)


@njit(cache=True, nogil=True)
def add_rows(slot_I, item_QL, code_QL, weight_2L, weight_RR, out_QR):
    """out[q] += the rows of a history's items, each times `weight_2L` (not liked, liked) at its lag; latest first.

    Histories are short beside the items that are covered, of which a matrix product would read all rows.
    """
    for q in range(item_QL.shape[0]):
        for lag in range(item_QL.shape[1]):
            item = item_QL[q, lag]
            if item < 0 or slot_I[item] < 0:
                continue
            slot, weight = slot_I[item], weight_2L[code_QL[q, lag] & 1, lag]
            for r in range(out_QR.shape[1]):
                out_QR[q, r] += weight * weight_RR[slot, r]
