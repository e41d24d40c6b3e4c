"""The loop over what users liked and said lately: their vectors side by side, and the means of them.

Single-threaded and without fast-math, so that the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit

SMALL = np.float32(1e-12)


@njit(cache=True, nogil=True)
def _to_unit(vector_P):
    """Bring a vector to unit length; of zeros nothing can be made."""
    square = np.float32(0)
    for p in range(vector_P.shape[0]):
        square += vector_P[p] * vector_P[p]
    length = max(np.sqrt(square), SMALL)
    for p in range(vector_P.shape[0]):
        vector_P[p] /= length


@njit(cache=True, nogil=True)
def profiles(
    projected_IP, ring_NP, written, item_QL, code_QL, weight_3L, texts, mean_QP, said_QP, near_QLP, disliked_QLP
):  # fmt: skip
    """What a user's last entries say, an item's vector each or a text's, of those not yet overwritten.

    `weight_3L` is how much an entry counts in `mean_QP` at each lag: disliked,
    liked or said, other. `said_QP` is the mean of the texts among the first
    `texts`. `near_QLP` are the first entries that were not disliked, zeros
    elsewhere, `disliked_QLP` those that were. Means are of unit length, or zeros.
    """
    oldest = written - ring_NP.shape[0]
    near_QLP[:] = 0
    disliked_QLP[:] = 0
    mean_QP[:] = 0
    said_QP[:] = 0
    for q in range(item_QL.shape[0]):
        for lag in range(min(item_QL.shape[1], weight_3L.shape[1])):
            item = item_QL[q, lag]
            number = -2 - item
            if item == -1 or (item < 0 and number < oldest):
                continue
            vector_P = projected_IP[item] if item >= 0 else ring_NP[number % ring_NP.shape[0]]
            disliked = code_QL[q, lag] >> 11 & 1
            liked = code_QL[q, lag] & 1 or item < 0
            weight = weight_3L[0 if disliked else (1 if liked else 2), lag]
            for p in range(vector_P.shape[0]):
                mean_QP[q, p] += weight * vector_P[p]
            if item < 0 and lag < texts:
                for p in range(vector_P.shape[0]):
                    said_QP[q, p] += vector_P[p]
            if disliked:
                if lag < disliked_QLP.shape[1]:
                    disliked_QLP[q, lag] = vector_P
            elif lag < near_QLP.shape[1]:
                near_QLP[q, lag] = vector_P
        _to_unit(mean_QP[q])
        _to_unit(said_QP[q])
