"""The loops over traits: a user's affinity for them, and a softmax regression over their hashed crosses.

Single-threaded and without fast-math, so that the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import math

import numpy as np
from numba import njit

MIX = np.uint64(0x9E3779B97F4A7C15)
SOFTEN = np.float32(0.1)


@njit(cache=True, nogil=True)
def _mean(trait_RT, weight_RT, value_V, row):
    """Weighted mean of the values of a row's traits; 0 for a row without any."""
    total = np.float32(0.0)
    norm = np.float32(0.0)
    for t in range(trait_RT.shape[1]):
        total += weight_RT[row, t] * value_V[trait_RT[row, t]]
        norm += weight_RT[row, t]
    return total / norm if norm > 0 else np.float32(0.0)


@njit(cache=True, nogil=True)
def _marks(mark_V, count):
    """The first of so many marks in a row that no trait bears yet: values are those of the trait that bears the mark.

    The last place says which mark was given last, so that nothing has to be cleared.
    """
    first = mark_V[-1] + 1
    mark_V[-1] += count
    return first


@njit(cache=True, nogil=True)
def affinity(
    trait_RT, weight_RT, item_QL, code_QL, decay_L, disliked, liked_V, likes, prior, count_V, value_V, mark_V,
    rows_QC, out_QC,
):  # fmt: skip
    """out[q, c] = mean over the row's traits of log P(trait | what the user liked) / P(trait | what all like).

    The user's counts decay by `decay_L` over the lags, what was not liked
    counts `disliked`; `prior` pseudo-likes stand at the base rate, (liked + 1) / `likes`.
    `count_V` is 0 everywhere, and so it is again afterwards; `value_V` and `mark_V` as `_marks` wants them.
    """
    first = _marks(mark_V, item_QL.shape[0])
    for q in range(item_QL.shape[0]):
        mark = first + q
        seen = np.float32(0.0)
        for lag in range(min(item_QL.shape[1], decay_L.shape[0])):
            i = item_QL[q, lag]
            if i < 0:
                continue
            liking = decay_L[lag] * (np.float32(1.0) if code_QL[q, lag] & 1 else disliked)
            seen += liking
            for t in range(trait_RT.shape[1]):
                count_V[trait_RT[i, t]] += liking * weight_RT[i, t]
        absent = np.float32(math.log(prior / (seen + prior)))
        for lag in range(min(item_QL.shape[1], decay_L.shape[0])):
            i = item_QL[q, lag]
            if i < 0:
                continue
            for t in range(trait_RT.shape[1]):
                k = trait_RT[i, t]
                if count_V[k] > 0:
                    value_V[k] = absent + math.log1p(count_V[k] / (prior * ((liked_V[k] + np.float32(1)) / likes)))
                    mark_V[k] = mark
                    count_V[k] = 0
        for c in range(rows_QC.shape[1]):
            row = rows_QC[q, c]
            for t in range(trait_RT.shape[1]):
                k = trait_RT[row, t]
                if mark_V[k] != mark:
                    value_V[k] = absent
                    mark_V[k] = mark
            out_QC[q, c] = _mean(trait_RT, weight_RT, value_V, row)


@njit(cache=True, nogil=True)
def _group(code_F, x_F, start, end):
    """Bring one group of the user's features to unit length."""
    square = np.float32(0.0)
    for f in range(start, end):
        square += x_F[f] * x_F[f]
    if square > 0:
        for f in range(start, end):
            x_F[f] /= np.float32(math.sqrt(square))
    return end


@njit(cache=True, nogil=True)
def _features(trait_RT, weight_RT, own_T, own_weight_T, item_L, code_L, lags, code_F, x_F):
    """The user's side of the crosses: a constant, their attributes, the traits of their last items, liked or not."""
    space = 1 << 20
    code_F[0] = 0
    x_F[0] = 1.0
    n = 1
    for t in range(own_T.shape[0]):
        if own_weight_T[t] > 0:
            code_F[n] = space + own_T[t]
            x_F[n] = own_weight_T[t]
            n += 1
    start = _group(code_F, x_F, 1, n)
    for lag in range(min(lags, item_L.shape[0])):
        i = item_L[lag]
        if i < 0:
            continue
        for t in range(trait_RT.shape[1]):
            if weight_RT[i, t] > 0:
                code_F[n] = (2 + (code_L[lag] & 1)) * space + trait_RT[i, t]
                x_F[n] = weight_RT[i, t] / np.float32(1 + lag)
                n += 1
    return _group(code_F, x_F, start, n)


@njit(cache=True, nogil=True)
def _cross(code, trait, size):
    """Where the cross of a user's feature and an item's trait is kept; `size` is a power of two."""
    mixed = (np.uint64(code) * np.uint64(1 << 20) + np.uint64(trait) + np.uint64(1)) * MIX
    # The same as the remainder, without a division: this is asked millions of times a second.
    return np.int64((mixed >> np.uint64(24)) & np.uint64(size - 1))


@njit(cache=True, nogil=True)
def _preferences(trait_RT, row, code_F, x_F, n, weight_W, value_V, mark_V, mark):
    """Fill in what the user's features say of each of the row's traits, where it is not known yet."""
    for t in range(trait_RT.shape[1]):
        k = trait_RT[row, t]
        if k > 0 and mark_V[k] != mark:
            total = np.float32(0.0)
            for f in range(n):
                total += x_F[f] * weight_W[_cross(code_F[f], k, weight_W.shape[0])]
            value_V[k] = total
            mark_V[k] = mark


@njit(cache=True, nogil=True)
def crossed(
    trait_RT, weight_RT, own_UT, own_weight_UT, user_Q, item_QL, code_QL, lags, weight_W, value_V, mark_V,
    rows_QC, out_QC,
):  # fmt: skip
    """out[q, c] = mean over the row's traits of the weights of their crosses with the user's features."""
    first = _marks(mark_V, rows_QC.shape[0])
    code_F = np.zeros(1 + own_UT.shape[1] + lags * trait_RT.shape[1], np.int64)
    x_F = np.zeros(code_F.shape[0], np.float32)
    for q in range(rows_QC.shape[0]):
        own, own_weight = own_UT[user_Q[q]], own_weight_UT[user_Q[q]]
        n = _features(trait_RT, weight_RT, own, own_weight, item_QL[q], code_QL[q], lags, code_F, x_F)
        for c in range(rows_QC.shape[1]):
            _preferences(trait_RT, rows_QC[q, c], code_F, x_F, n, weight_W, value_V, mark_V, first + q)
            out_QC[q, c] = _mean(trait_RT, weight_RT, value_V, rows_QC[q, c])


@njit(cache=True, nogil=True)
def learn_crosses(
    trait_RT, weight_RT, own_UT, own_weight_UT, user_B, item_BL, code_BL, lags, weight_W, square_W,
    slope_V, value_V, mark_V, rows_BN, signal_B, rate, shrink,
):  # fmt: skip
    """One pass of Adagrad on -log softmax of each event's item (rows_BN[:, 0]) against sampled ones (the others).

    `slope_V` is 0 everywhere, and so it is again afterwards; `value_V` and `mark_V` as `_marks` wants them.
    """
    first = _marks(mark_V, rows_BN.shape[0])
    code_F = np.zeros(1 + own_UT.shape[1] + lags * trait_RT.shape[1], np.int64)
    x_F = np.zeros(code_F.shape[0], np.float32)
    size = rows_BN.shape[1]
    share_N = np.zeros(size, np.float32)
    for b in range(rows_BN.shape[0]):
        own, own_weight = own_UT[user_B[b]], own_weight_UT[user_B[b]]
        n = _features(trait_RT, weight_RT, own, own_weight, item_BL[b], code_BL[b], lags, code_F, x_F)
        for c in range(size):
            _preferences(trait_RT, rows_BN[b, c], code_F, x_F, n, weight_W, value_V, mark_V, first + b)
            share_N[c] = _mean(trait_RT, weight_RT, value_V, rows_BN[b, c])
        share_N[:] = np.exp(share_N - share_N.max())
        share_N /= share_N.sum()
        share_N[0] -= 1
        for c in range(size):
            _slopes(trait_RT, weight_RT, rows_BN[b, c], share_N[c] * signal_B[b], slope_V)
        for c in range(size):
            for t in range(trait_RT.shape[1]):
                k = trait_RT[rows_BN[b, c], t]
                if k > 0 and slope_V[k] != 0:
                    _descend(code_F, x_F, n, k, slope_V[k], weight_W, square_W, rate, shrink)
                    slope_V[k] = 0


@njit(cache=True, nogil=True)
def _slopes(trait_RT, weight_RT, row, slope, slope_V):
    norm = np.float32(0.0)
    for t in range(trait_RT.shape[1]):
        norm += weight_RT[row, t]
    if norm > 0:
        for t in range(trait_RT.shape[1]):
            slope_V[trait_RT[row, t]] += slope * weight_RT[row, t] / norm
    slope_V[0] = 0


@njit(cache=True, nogil=True)
def _descend(code_F, x_F, n, trait, slope, weight_W, square_W, rate, shrink):
    for f in range(n):
        w = _cross(code_F[f], trait, weight_W.shape[0])
        gradient = x_F[f] * slope + shrink * weight_W[w]
        square_W[w] += gradient * gradient
        weight_W[w] -= rate * gradient / np.float32(math.sqrt(square_W[w] + SOFTEN))
