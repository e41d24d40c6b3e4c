"""Loops over answers that name few items of a large catalogue: the best of them, and what they say of given rows.

A question's items are `row_T[start_Q[q] : start_Q[q] + size_Q[q]]`, in any order, each once; of all others the score
is 0. Scores are float32, at least 0, none of them NaN or infinite. Whatever is put in order is as a stable sort has it.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.learning.banned_kernels import is_banned, lift, stamp
from pipeline.learning.ordering_kernels import FEW, floor_of, last_wanted, rank_each


@njit(cache=True, nogil=True)
def key_of(score, row):
    """A whole number that is the greater the greater the score (at least 0), of equal ones the smaller the row."""
    bits = np.float32(score).view(np.int32)
    return (np.int64(bits) << 32) | np.int64(0x7FFFFFFF - row)


@njit(cache=True, nogil=True)
def row_of(key):
    """The row in a key."""
    return 0x7FFFFFFF - (key & 0x7FFFFFFF)


@njit(cache=True, nogil=True)
def _keep(key, n, floor):
    """Move those of the first n keys that reach the floor to the front, in their order; returns how many they are."""
    size = 0
    for at in range(n):
        key[size] = key[at]
        size += key[size] >= floor
    return size


@njit(cache=True, nogil=True)
def put_best(key, n, found_N, meant_N):
    """Fill in the rows of the greatest of the first n keys, all different, greatest first; whether a place has one."""
    wanted = found_N.shape[0]
    if n > 2 * wanted:
        n = _keep(key, n, floor_of(key[:n], wanted))
    if n > wanted:
        n = _keep(key, n, last_wanted(key, n, wanted))
    for place in range(n, wanted):
        meant_N[place] = False
        found_N[place] = 0
    rank = np.empty(n, np.int32)
    if n > FEW:
        key[:n] = np.sort(key[:n])[::-1]
        rank[:] = np.arange(n)
    else:
        rank_each(key, n, rank)
    for at in range(n):
        found_N[rank[at]] = row_of(key[at])
        meant_N[rank[at]] = True


@njit(cache=True, nogil=True)
def best_listed(start_Q, size_Q, row_T, score_TS, column_P, wanted_P, ban, found_QN, meant_QN):
    """Per question and column the rows of the greatest scores above 0 that are not banned; whether a place has one.

    Columns stand beside one another, each with as many places as are wanted of it.
    """
    columns = column_P.shape[0]
    key_PT = np.empty((columns, size_Q.max() + 1 if size_Q.shape[0] else 0), np.int64)
    n_P = np.empty(columns, np.int64)
    for q in range(size_Q.shape[0]):
        n_P[:] = 0
        stamp(ban, q)
        for t in range(start_Q[q], start_Q[q] + size_Q[q]):
            if is_banned(ban, row_T[t]):
                continue
            for p in range(columns):
                score = score_TS[t, column_P[p]]
                key_PT[p, n_P[p]] = key_of(score, row_T[t])
                n_P[p] += score > 0
        lift(ban, q)
        end = 0
        for p in range(columns):
            begin, end = end, end + wanted_P[p]
            put_best(key_PT[p], n_P[p], found_QN[q, begin:end], meant_QN[q, begin:end])


@njit(cache=True, nogil=True)
def rank_listed(start_Q, size_Q, row_T, score_TS, column, ban, left_Q, target_Q, rank_Q, top_QN):
    """Each target's 1-based rank in the whole catalogue, a tie counting against it, and the first rows.

    The rank is 0 where the target is banned or unknown; `left_Q` is how many rows are not banned. `top_QN` has the
    rows of the greatest scores not banned, whether each place has one being said by -1; then those of score 0.
    """
    wanted, items = top_QN.shape[1], ban[0].shape[0]
    for q in range(size_Q.shape[0]):
        target, own, above = target_Q[q], np.float32(0), 0
        span = range(start_Q[q], start_Q[q] + size_Q[q])
        stamp(ban, q)
        for t in span:
            if row_T[t] == target:
                own = score_TS[t, column]
        for t in span:
            above += score_TS[t, column] >= own and not is_banned(ban, row_T[t])
        rank_Q[q] = 0
        if target < items and not is_banned(ban, target):
            rank_Q[q] = above if own > 0 else left_Q[q]
        found = 0
        while found < wanted and top_QN[q, found] >= 0:
            found += 1
        named, row = found, 0
        while found < wanted and row < items:
            if not is_banned(ban, row) and not (top_QN[q, :named] == row).any():
                top_QN[q, found] = row
                found += 1
            row += 1
        lift(ban, q)


@njit(cache=True, nogil=True)
def look_up(start_Q, size_Q, row_T, score_TS, rows_QC, place_I, out_QCS):
    """The scores of these rows. `place_I` holds -1 everywhere, and does so again afterwards."""
    for q in range(size_Q.shape[0]):
        for t in range(start_Q[q], start_Q[q] + size_Q[q]):
            place_I[row_T[t]] = t
        for c in range(rows_QC.shape[1]):
            t = place_I[rows_QC[q, c]]
            for s in range(score_TS.shape[1]):
                out_QCS[q, c, s] = score_TS[t, s] if t >= 0 else np.float32(0)
        for t in range(start_Q[q], start_Q[q] + size_Q[q]):
            place_I[row_T[t]] = -1


@njit(cache=True, nogil=True)
def spread(start_Q, size_Q, row_T, score_TS, column, out_QI):
    """One column over the whole catalogue."""
    for q in range(size_Q.shape[0]):
        for t in range(start_Q[q], start_Q[q] + size_Q[q]):
            out_QI[q, row_T[t]] = score_TS[t, column]


@njit(cache=True, nogil=True)
def best_of_near(slot_QL, wanted_QL, near_SN, cosine_SN, ban, most_I, found_QN, meant_QN):
    """Per question the rows whose greatest cosine with one of its wanted items is greatest, as lists of each have them.

    `slot_QL` is where each item's list is, -1 for none.

    `most_I` is 0 everywhere, and so it is again afterwards.
    """
    items = ban[0].shape[0]
    met = np.empty(slot_QL.shape[1] * near_SN.shape[1], np.int64)
    key = np.empty(met.shape[0], np.int64)
    for q in range(slot_QL.shape[0]):
        m = 0
        stamp(ban, q)
        for lag in range(slot_QL.shape[1]):
            slot = slot_QL[q, lag]
            if slot < 0 or not wanted_QL[q, lag]:
                continue
            for place in range(near_SN.shape[1]):
                row = near_SN[slot, place]
                if row < 0:
                    break
                if row >= items or is_banned(ban, row):
                    continue
                if most_I[row] == 0:
                    met[m] = row
                    m += 1
                most_I[row] = max(most_I[row], cosine_SN[slot, place])
        lift(ban, q)
        for n in range(m):
            key[n] = key_of(most_I[met[n]], met[n])
            most_I[met[n]] = 0
        put_best(key, m, found_QN[q], meant_QN[q])


@njit(cache=True, nogil=True)
def best_shared(order_N, meant_N, complete, ban, found_QN, meant_QN):
    """Per question the first rows of an order that all share and that are not banned.

    Returns whether the order was long enough for all; `complete`: there are no rows beyond it.
    """
    wanted = found_QN.shape[1]
    for q in range(found_QN.shape[0]):
        n = 0
        stamp(ban, q)
        for place in range(order_N.shape[0]):
            if n == wanted:
                break
            if not is_banned(ban, order_N[place]):
                found_QN[q, n] = order_N[place]
                meant_QN[q, n] = meant_N[place]
                n += 1
        lift(ban, q)
        if n < wanted and not complete:
            return False
        found_QN[q, n:] = 0
        meant_QN[q, n:] = False
    return True


@njit(cache=True, nogil=True)
def fuse(rows_QP, meant_QP, share_P, filler_QP, filler_N, order_N, complete, ban, sum_I, found_QC, present_QC):
    """Per question the rows of the greatest sums of shares and filler: of those meant, and of the filler's order.

    `sum_I` holds -1 everywhere, and does so again afterwards. Returns as `best_shared` does.
    """
    wanted, proposed = found_QC.shape[1], rows_QP.shape[1]
    key = np.empty(proposed + wanted, np.int64)
    touched = np.empty(proposed, np.int64)
    for q in range(rows_QP.shape[0]):
        m = 0
        for p in range(proposed):
            row = rows_QP[q, p]
            if meant_QP[q, p]:
                if sum_I[row] < 0:
                    sum_I[row] = filler_QP[q, p]
                    touched[m] = row
                    m += 1
                sum_I[row] += share_P[p]
        n = 0
        stamp(ban, q)
        for t in range(m):
            if not is_banned(ban, touched[t]):
                key[n] = key_of(sum_I[touched[t]], touched[t])
                n += 1
        filled = 0
        for place in range(order_N.shape[0]):
            row = order_N[place]
            if filled == wanted:
                break
            if not is_banned(ban, row) and sum_I[row] < 0:
                key[n] = key_of(filler_N[place], row)
                n += 1
                filled += 1
        lift(ban, q)
        for t in range(m):
            sum_I[touched[t]] = -1
        if filled < wanted and not complete:
            return False
        put_best(key, n, found_QC[q], present_QC[q])
    return True


@njit(cache=True, nogil=True)
def most_liked(due_I, stale_I, at_I, latest, count_I, most_N):
    """Of the rows that are due, not stale and were last served by `latest`, the most liked ones, of equals the first.

    Returns how many were found.
    """
    key_N = np.empty(most_N.shape[0], np.int64)
    n = 0
    for row in range(due_I.shape[0] if most_N.shape[0] else 0):
        if not due_I[row] or stale_I[row] or at_I[row] > latest:
            continue
        key = key_of(count_I[row], row)
        if n == most_N.shape[0]:
            if key < key_N[n - 1]:
                continue
            n -= 1
        at = n
        while at > 0 and key_N[at - 1] < key:
            key_N[at] = key_N[at - 1]
            at -= 1
        key_N[at] = key
        n += 1
    for place in range(n):
        most_N[place] = row_of(key_N[place])
    return n
