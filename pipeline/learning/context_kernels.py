"""The loop over a question's circumstances: how much history, how recent and liked; the last event's clock and type.

Single-threaded and without fast-math, so that the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import math

import numpy as np
from numba import njit

RECENT, TEXTS = 10, 5
DAY_S = 86_400


@njit(cache=True, nogil=True)
def history_features(item_QL, code_QL, time_QL, count_Q, out_QX):
    """The first 9 columns, see `context.context`."""
    recent, texts = min(RECENT, item_QL.shape[1]), min(TEXTS, item_QL.shape[1])
    for q in range(item_QL.shape[0]):
        here = liked = levels = 0
        for lag in range(recent):
            if item_QL[q, lag] != -1:
                here += 1
                liked += code_QL[q, lag] & 1
                levels += code_QL[q, lag] >> 2 & 7
        length = max(here, 1)
        oldest = time_QL[q, length - 1]
        gap = 0
        if recent > 1 and item_QL[q, 1] != -1:
            gap = max(np.int64(time_QL[q, 0]) - time_QL[q, 1], 0)
        count = np.float64(count_Q[q])
        out_QX[q, 0] = count == 0
        out_QX[q, 1] = count < 5
        out_QX[q, 2] = math.log1p(count) / 5
        out_QX[q, 3] = min(count, 50) / 50
        out_QX[q, 4] = liked / length
        out_QX[q, 5] = levels / length / 5
        out_QX[q, 6] = math.log1p(gap) / 15
        out_QX[q, 7] = math.log1p(max(np.int64(time_QL[q, 0]) - oldest, 0)) / 15
        out_QX[q, 8] = 0
        for lag in range(texts):
            if item_QL[q, lag] < -1:
                out_QX[q, 8] = 1


@njit(cache=True, nogil=True)
def last_features(item_QL, code_QL, time_QL, zone_Q, clock_size, kind_size, out_QX):
    """The last event's hour and weekday as points on circles where the user is, then its type, hashed; 0 without one.

    Times count in seconds from 2000-01-01, a Saturday; zones are minutes east of UTC.
    """
    kinds = out_QX.shape[1] - 4
    for q in range(item_QL.shape[0]):
        out_QX[q] = 0
        if item_QL[q, 0] == -1:
            continue
        local = np.float64(np.int64(time_QL[q, 0]) + 60 * np.int64(zone_Q[q]))
        hour, day = 2 * math.pi * local / DAY_S, 2 * math.pi * math.floor(local / DAY_S) / 7
        out_QX[q, 0] = math.sin(hour) * clock_size
        out_QX[q, 1] = math.cos(hour) * clock_size
        out_QX[q, 2] = math.sin(day) * clock_size
        out_QX[q, 3] = math.cos(day) * clock_size
        out_QX[q, 4 + (code_QL[q, 0] >> 5 & 63) % kinds] = kind_size


@njit(cache=True, nogil=True)
def told_features(word_Q, number_QM, words, out_QX):
    """1 for each hashed word that was told, then the hashed numbers."""
    for q in range(word_Q.shape[0]):
        for w in range(words):
            out_QX[q, w] = word_Q[q] >> w & 1
        for m in range(number_QM.shape[1]):
            out_QX[q, words + m] = number_QM[q, m]
