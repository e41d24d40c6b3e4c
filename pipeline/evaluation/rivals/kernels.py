"""The rivals' loops over pairs and neighbours. Single-threaded and without fast-math, as the learner's are."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def repeated(hist_L, lag):
    """Whether the item at a lag stands at a smaller one too."""
    for earlier in range(lag):  # noqa: SIM110 - numba has no any()
        if hist_L[earlier] == hist_L[lag]:
            return True
    return False


@njit(cache=True, nogil=True)
def count_pairs(pair_II, item_B, liked_B, learn_B, hist_BL, code_BL, weight_L, likes_only, both_ways, distinct):
    """Add weight[lag] to (old, new) for each event's item and its user's previous ones, and to (new, old) if asked.

    With `distinct` an item that stands in a history more than once counts once.
    """
    for b in range(item_B.shape[0]):
        j = item_B[b]
        if j < 0 or not learn_B[b] or (likes_only and not liked_B[b]):
            continue
        for lag in range(min(hist_BL.shape[1], weight_L.shape[0])):
            i = hist_BL[b, lag]
            if i < 0 or i == j or (likes_only and not (code_BL[b, lag] & 1)):
                continue
            if distinct and repeated(hist_BL[b], lag):
                continue
            pair_II[i, j] += weight_L[lag]
            if both_ways:
                pair_II[j, i] += weight_L[lag]


@njit(cache=True, nogil=True)
def add_rows(pair_II, scale_I, hist_QL, code_QL, weight_L, disliked, by_place, out_QI):
    """out[q] += weight[lag] * liking * scale[i] * pair[i] over a history.

    `disliked` is the liking of entries that were not liked. `by_place` counts
    lags among the entries that count instead of all.
    """
    items = out_QI.shape[1]
    for q in range(hist_QL.shape[0]):
        place = 0
        for lag in range(hist_QL.shape[1]):
            at = place if by_place else lag
            if at >= weight_L.shape[0]:
                break
            i = hist_QL[q, lag]
            liking = np.float32(1.0) if code_QL[q, lag] & 1 else disliked
            if i < 0 or i >= items or liking == 0:
                continue
            place += 1
            weight = weight_L[at] * liking * scale_I[i]
            for j in range(items):
                out_QI[q, j] += weight * pair_II[i, j]


@njit(cache=True, nogil=True)
def remember_likes(liked_UL, likes_U, liker_IR, when_IR, likers_I, user_B, item_B, positive_B, first):
    """Note each like with its user and with its item; both are rings."""
    for b in range(user_B.shape[0]):
        if not positive_B[b]:
            continue
        u, i = user_B[b], item_B[b]
        liked_UL[u, likes_U[u] % liked_UL.shape[1]] = i
        likes_U[u] += 1
        slot = likers_I[i] % liker_IR.shape[1]
        liker_IR[i, slot] = u
        when_IR[i, slot] = first + b
        likers_I[i] += 1


@njit(cache=True, nogil=True)
def ask_users(
    liked_UL, likes_U, liker_IR, when_IR, likers_I, user_Q, hist_QL, code_QL, weight_L, neighbours, horizon, now,
    similar_U, out_QI,
):  # fmt: skip
    """out[q, j] = the summed similarity of the nearest users who like j. `similar_U` must be, and is left, zero."""
    items = out_QI.shape[1]
    touched = np.empty(similar_U.shape[0], np.int64)
    for q in range(user_Q.shape[0]):
        n = 0
        place = 0
        for lag in range(hist_QL.shape[1]):
            i = hist_QL[q, lag]
            if i < 0 or i >= items or not (code_QL[q, lag] & 1):
                continue
            if place >= weight_L.shape[0]:
                break
            for r in range(min(likers_I[i], liker_IR.shape[1])):
                v = liker_IR[i, r]
                if v == user_Q[q]:
                    continue
                if similar_U[v] == 0:
                    touched[n] = v
                    n += 1
                similar_U[v] += weight_L[place] * np.exp((when_IR[i, r] - now) / horizon) / np.sqrt(likes_U[v])
            place += 1
        order = np.argsort(-similar_U[touched[:n]])
        for t in range(min(n, neighbours)):
            v = touched[order[t]]
            for s in range(min(likes_U[v], liked_UL.shape[1])):
                if liked_UL[v, s] < items:
                    out_QI[q, liked_UL[v, s]] += similar_U[v]
        for t in range(n):
            similar_U[touched[t]] = 0.0
