"""Loops that put in order: the best rows of a score under a ban, each candidate's rank in every column.

At a fraction of a sort's cost: of many few are wanted, or only few are ranked. The best rows are a stable sort's.
Scores are float32, none of them NaN.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.learning.banned_kernels import is_banned, lift, stamp

LEAST = np.int32(-(2**31))
FEW = 256
LONGEST = 64
"""Of so many scores in a row at most the greatest is noted: where it is not among the best, none of them is."""


@njit(cache=True, nogil=True)
def rank_each(value, n, rank):
    """rank[c] = how many of the first n values are greater than the c-th, or equal to it and before it.

    Every pair is compared: up to some hundred values that is sooner done than sorting.
    """
    for later in range(n):
        mine = value[later]
        rank[later] = 0
        greater = np.int32(0)
        for c in range(later):
            is_greater = np.int32(mine > value[c])
            rank[c] += is_greater
            greater += is_greater
        rank[later] = later - greater


@njit(cache=True, nogil=True)
def floor_of(key, wanted):
    """A key that at least `wanted` reach: dealt into so many hands, the least of the hands' greatest."""
    greatest = key[:wanted].copy()
    for start in range(wanted, key.shape[0], wanted):
        dealt = key[start : min(start + wanted, key.shape[0])]
        for hand in range(dealt.shape[0]):
            greatest[hand] = max(greatest[hand], dealt[hand])
    return greatest.min()


@njit(cache=True, nogil=True)
def last_wanted(key, n, wanted):
    """Of the first n whole numbers, those of 64 bits at least 0, one that `wanted` reach and fewer surpass."""
    low, high = np.int64(key[:n].min()), np.int64(key[:n].max())
    limit = np.empty(1, key.dtype)
    while low < high:
        middle = low + ((high - low + 1) >> 1)
        limit[0] = middle
        floor = limit[0]
        reach = 0
        for i in range(n):
            reach += key[i] >= floor
        if reach == wanted:
            return floor
        if reach > wanted:
            low = middle
        else:
            high = middle - 1
    limit[0] = low
    return limit[0]


@njit(cache=True, nogil=True)
def _key_each(bits_I, shown_I, key_I):
    """Scores as whole numbers of the same order, LEAST where not shown.

    Floats are in order if of negative ones all bits but the sign are turned; -0 is 0.
    """
    for i in range(key_I.shape[0]):
        b = bits_I[i]
        b = b if b >= 0 else (np.int32(0) if b == LEAST else b ^ np.int32(0x7FFFFFFF))
        key_I[i] = b if shown_I[i] else LEAST


@njit(cache=True, nogil=True)
def _greatest_each(key_I, span, greatest):
    """The greatest of every `span` keys in a row."""
    for at in range(greatest.shape[0]):
        part, most = key_I[at * span : min((at + 1) * span, key_I.shape[0])], LEAST
        for i in range(part.shape[0]):
            most = max(most, part[i])
        greatest[at] = most


@njit(cache=True, nogil=True)
def best_rows(score_RI, ban, found_QN, meant_QN):
    """Per question the rows of the greatest scores, greatest first, of equals the first ones; banned ones last of all.

    `score_RI` has a row for each question or one for all. `meant_QN` is whether
    a row is not banned and its score is neither 0 nor -inf.
    """
    shown_I, start_Q, stop_Q, row_T, _ = ban
    items, wanted = shown_I.shape[0], found_QN.shape[1]
    if wanted == 0:
        return
    bits = score_RI.view(np.int32)
    span = min(max(items // (2 * wanted), 1), LONGEST)
    spans = (items + span - 1) // span
    key, greatest = np.empty(items, np.int32), np.empty(spans, np.int32)
    row, high = np.empty(items, np.int32), np.empty(items, np.int32)
    rank = np.empty(wanted, np.int32)
    for q in range(found_QN.shape[0]):
        r = q if score_RI.shape[0] > 1 else 0
        _key_each(bits[r], shown_I, key)
        for t in range(start_Q[q], stop_Q[q]):
            key[row_T[t]] = LEAST
        _greatest_each(key, span, greatest)
        floor, size = last_wanted(greatest, spans, wanted), 0
        for at in range(spans):
            if greatest[at] < floor:
                continue
            for i in range(at * span, min((at + 1) * span, items)):
                if key[i] >= floor:
                    row[size] = i
                    high[size] = key[i]
                    size += 1
        last = last_wanted(high, size, wanted)
        above = 0
        for i in range(size):
            above += high[i] > last
        equals, n = wanted - above, 0
        for i in range(size):
            if high[i] > last or (high[i] == last and equals > 0):
                equals -= high[i] == last
                row[n] = row[i]
                high[n] = high[i]
                n += 1
                if n == wanted:
                    break
        rank_each(high, wanted, rank)
        for c in range(wanted):
            found_QN[q, rank[c]] = row[c]
            score = score_RI[r, row[c]]
            meant_QN[q, rank[c]] = high[c] != LEAST and score != 0 and score > -np.inf


@njit(cache=True, nogil=True)
def _above_each(value, n, rank, high, place):
    """rank[c] = how many of the first n values are greater than the c-th. `high` and `place` are room for n.

    Those equal to the least have all others above them, and are many where a
    column says something of few items: only the others are compared in pairs.
    """
    if n > FEW:
        order = np.argsort(-value[:n], kind="mergesort")
        above = np.int32(0)
        for at in range(n):
            if at > 0 and value[order[at]] < value[order[at - 1]]:
                above = np.int32(at)
            rank[order[at]] = above
        return
    least, m = value[:n].min(), 0
    for c in range(n):
        if value[c] > least:
            high[m] = value[c]
            place[m] = c
            m += 1
    rank[:n] = m
    for c in range(m):
        mine = high[c]
        above = np.int32(0)
        for other in range(m):
            above += np.int32(high[other] > mine)
        rank[place[c]] = above


@njit(cache=True, nogil=True)
def _spread(value_NS, n, mean_S, deviation_S):
    """Each column's mean and standard deviation over n rows, added up in their order."""
    columns = value_NS.shape[1]
    mean_S[:] = 0
    for c in range(n):
        for s in range(columns):
            mean_S[s] += value_NS[c, s]
    mean_S /= n
    deviation_S[:] = 0
    for c in range(n):
        for s in range(columns):
            deviation_S[s] += (value_NS[c, s] - mean_S[s]) ** 2
    deviation_S[:] = np.sqrt(deviation_S / n)


@njit(cache=True, nogil=True)
def _gather(score_CS, log_CS, logarithmic_S, present_C, here, value_NS):
    """The values of those present, and where they stand; returns how many there are."""
    n = 0
    for c in range(score_CS.shape[0]):
        if present_C[c]:
            here[n] = c
            for s in range(score_CS.shape[1]):
                value_NS[n, s] = log_CS[c, s] if logarithmic_S[s] else score_CS[c, s]
            n += 1
    return n


@njit(cache=True, nogil=True)
def compare(score_QCS, log_QCS, logarithmic_S, present_QC, asked_S, noise, place_C, out_QCK):
    """Each column, or its logarithm, within its list: z-scores to 4, then what `place_C` says of each one's rank.

    Equals share a rank. Both are 0 for what is not present and in a column that
    was not asked; all that differs by less than ten times the `noise` has no rank.
    """
    questions, size, columns = score_QCS.shape
    value_NS = np.empty((size, columns), np.float32)
    value, rank = np.empty(size, np.float32), np.empty(size, np.int32)
    high, place = np.empty(size, np.float32), np.empty(size, np.int32)
    mean_S, deviation_S = np.empty(columns, np.float64), np.empty(columns, np.float64)
    here = np.empty(size, np.int64)
    out_QCK[:] = 0
    for q in range(questions):
        n = _gather(score_QCS[q], log_QCS[q], logarithmic_S, present_QC[q], here, value_NS)
        if n == 0:
            continue
        _spread(value_NS, n, mean_S, deviation_S)
        for s in range(columns):
            if not asked_S[s]:
                continue
            scale = 1 / (deviation_S[s] + noise)
            for c in range(n):
                value[c] = value_NS[c, s]
                out_QCK[q, here[c], s] = min(max((value[c] - mean_S[s]) * scale, -4.0), 4.0)
            if deviation_S[s] <= 10 * noise:
                continue
            _above_each(value, n, rank, high, place)
            for c in range(n):
                out_QCK[q, here[c], columns + s] = place_C[rank[c]]


@njit(cache=True, nogil=True)
def ranks_of(score_QI, ban, target_Q, rank_Q):
    """1-based rank of each target, a tie counting against it; 0 for a banned or unknown one."""
    shown_I = ban[0]
    for q in range(target_Q.shape[0]):
        target = target_Q[q]
        rank_Q[q] = 0
        stamp(ban, q)
        if target < shown_I.shape[0] and not is_banned(ban, target):
            floor = score_QI[q, target]
            for i in range(shown_I.shape[0]):
                rank_Q[q] += (score_QI[q, i] >= floor) & (not is_banned(ban, i))
        lift(ban, q)


@njit(cache=True, nogil=True)
def count_reaching(score_I, shown_I, floor_F, count_F):
    """How many rows that may be shown have at least each score, of which there are some, ascending: in one pass."""
    floors = floor_F.shape[0]
    zeros = np.int64(0)
    for i in range(shown_I.shape[0]):
        score = score_I[i]
        if not shown_I[i] or score < floor_F[0]:
            continue
        if score == 0:
            zeros += 1
            continue
        low, high = 0, floors
        while low < high:
            middle = (low + high) >> 1
            if floor_F[middle] <= score:
                low = middle + 1
            else:
                high = middle
        count_F[low - 1] += 1
    below = np.searchsorted(floor_F, np.float32(0), "right")
    if below > 0:
        count_F[below - 1] += zeros
    for f in range(floors - 2, -1, -1):
        count_F[f] += count_F[f + 1]


@njit(cache=True, nogil=True)
def shared_ranks(score_I, ban, target_Q, floor_F, count_F, rank_Q):
    """As `ranks_of` by a score that all questions share; of each target's score is known how many rows reach it."""
    shown_I, start_Q, stop_Q, row_T, _ = ban
    for q in range(target_Q.shape[0]):
        target = target_Q[q]
        rank_Q[q] = 0
        stamp(ban, q)
        if target < shown_I.shape[0] and not is_banned(ban, target):
            floor = score_I[target]
            rank_Q[q] = count_F[np.searchsorted(floor_F, floor)]
            for t in range(start_Q[q], stop_Q[q]):
                rank_Q[q] -= shown_I[row_T[t]] and score_I[row_T[t]] >= floor
        lift(ban, q)


@njit(cache=True, nogil=True)
def pooled_ranks(score_QC, rows_QC, rest_I, ban, target_Q, rank_Q):
    """From ranks by `rest_I` to those where candidates (score above -inf) come first, then the others by `rest_I`."""
    for q in range(target_Q.shape[0]):
        target = target_Q[q]
        if rank_Q[q] == 0:
            continue
        own, floor = -np.inf, rest_I[target]
        for c in range(score_QC.shape[1]):
            if rows_QC[q, c] == target and score_QC[q, c] > own:
                own = score_QC[q, c]
        if own > -np.inf:
            rank_Q[q] = 0
        stamp(ban, q)
        for c in range(score_QC.shape[1]):
            # A candidate stands before the target by its score, or for being one; then it is not counted twice.
            row = rows_QC[q, c]
            if score_QC[q, c] > own:
                rank_Q[q] += 1 - (own == -np.inf and rest_I[row] >= floor and not is_banned(ban, row))
            elif score_QC[q, c] == own and own > -np.inf:
                rank_Q[q] += 1
        lift(ban, q)
