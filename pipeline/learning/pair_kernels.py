"""The loops over pairs of items (`pairs.Pairs`): counted within users' histories, summed up for those who ask.

Single-threaded and without fast-math, so that the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _more_room(pairs, i):
    """Move row i to where there is room for more partners."""
    neighbour, value, start, room, filled, free, sizes, _, _ = pairs
    size = 0
    while sizes[size] <= room[i]:
        size += 1
    begin = free[size]
    if begin >= 0:
        free[size] = neighbour[begin]
    else:
        begin = free[-1]
        free[-1] += sizes[size]
    old = start[i]
    for s in range(filled[i]):
        neighbour[begin + s] = neighbour[old + s]
        value[begin + s] = value[old + s]
    if size > 0:
        neighbour[old] = free[size - 1]
        free[size - 1] = old
    start[i] = begin
    room[i] = sizes[size]


@njit(cache=True, nogil=True)
def _look_anew(pairs, i):
    """Note a full row's weakest partners, the weakest first."""
    _, value, start, _, filled, _, _, weak_IW, bar_I = pairs
    begin, last = start[i], weak_IW.shape[1] - 1
    masses = np.full(last + 1, np.float32(np.inf))
    weak_IW[i] = -1
    for s in range(filled[i]):
        mass = value[begin + s, 0] + value[begin + s, 1]
        if mass < masses[last]:
            at = last
            while at > 0 and masses[at - 1] > mass:
                masses[at], weak_IW[i, at] = masses[at - 1], weak_IW[i, at - 1]
                at -= 1
            masses[at], weak_IW[i, at] = mass, s
    bar_I[i] = masses[last]
    if weak_IW[i, 0] < 0:
        weak_IW[i, 0], bar_I[i] = 0, np.nan


@njit(cache=True, nogil=True)
def _weakest(value, begin, weak_IW, i, bar):
    """The first of the partners with the least mass in a full row; -1 where it has to be looked for among all."""
    last = weak_IW.shape[1] - 1
    least, first, known = bar, np.int64(weak_IW[i, last]), np.int64(-1)
    for w in range(last):
        s = np.int64(weak_IW[i, w])
        if s < 0:
            break
        mass = value[begin + s, 0] + value[begin + s, 1]
        # So that of masses that are no numbers, too, one is.
        if not mass > least and (mass != least or s < first):
            least, first, known = mass, s, s
    return known


@njit(cache=True, nogil=True)
def _place_of(neighbour, begin, n, j):
    """Which of a row's n partners is j, -1 if none is."""
    known = np.int32(-1)
    here = neighbour[begin : begin + n]
    for s in range(here.shape[0]):
        # To the end, without a branch: eight at a time that is sooner done than stopping where it is found.
        known = max(known, np.int32(s) if here[s] == j else np.int32(-1))
    return np.int64(known)


@njit(cache=True, nogil=True)
def _make_ready(pairs, i):
    """Have a row take another partner."""
    if pairs[4][i] < pairs[6][-1]:
        _more_room(pairs, i)
    else:
        _look_anew(pairs, i)


@njit(cache=True, nogil=True)
def _place_for(value, begin, n, most, weak_IW, i, bar):
    """Of a row that has not the partner: which place a new one gets, -1 where all have to be looked at first."""
    return np.int64(n) if n < most else _weakest(value, begin, weak_IW, i, bar)


@njit(cache=True, nogil=True)
def _begin(neighbour, value, at, partner):
    """A partner of whom nothing is counted yet, in the place of whoever was there."""
    neighbour[at] = partner
    for c in range(value.shape[1]):
        value[at, c] = 0.0


@njit(cache=True, nogil=True)
def _count_event(pairs, b, first, item_B, liked_B, signal_B, hist_item, hist_code, reach, power, gain):
    """Count event b's item with those before it, from lag `first` on.

    Returns the lag at which a row has no place for another partner, and that row; -1 if there is none.
    What is called from here takes no tuple of arrays: counting references to them took twice as long as all else.
    """
    neighbour, value, start, room, filled, _, sizes, weak_IW, bar_I = pairs
    most = sizes[-1]
    j, liked, taught = item_B[b], liked_B[b], signal_B[b]
    for lag in range(first, reach):
        i, code = hist_item[b, lag], hist_code[b, lag]
        both = (code & 1) == 1 and liked
        if i < 0 or i == j or (code >> 11 & 1) == 1 or (not both and lag >= 30):
            continue
        s = _place_of(neighbour, start[i], filled[i], j)
        new_s = s < 0
        if new_s:
            s = _place_for(value, start[i], filled[i], most, weak_IW, i, bar_I[i])
            if s < 0 or s >= room[i]:
                return lag, np.int64(i)
        r = _place_of(neighbour, start[j], filled[j], i)
        new_r = r < 0
        if new_r:
            r = _place_for(value, start[j], filled[j], most, weak_IW, j, bar_I[j])
            if r < 0 or r >= room[j]:
                return lag, np.int64(j)
        filled[i], filled[j] = max(filled[i], np.int32(s + 1)), max(filled[j], np.int32(r + 1))
        s, r = s + start[i], r + start[j]
        if new_s:
            _begin(neighbour, value, s, j)
        if new_r:
            _begin(neighbour, value, r, i)
        if both:
            value[s, 0] += taught * power[0, lag]
            value[r, 0] += taught * power[0, lag]
        if lag < 30:
            value[s, 1] += taught * power[1, lag]
            value[r, 1] += taught * power[1, lag]
            strength = taught * gain[0] * power[5, lag] * (1.0 if both else 0.5)
            value[s, 5] += strength
            value[r, 5] += 0.3 * strength
        if lag < 10:
            value[s, 2] += taught * power[2, lag]
            value[r, 3] += taught * power[3, lag]
        if lag < 4:
            value[s, 4] += taught * power[4, lag]
    return reach, np.int64(-1)


@njit(cache=True, nogil=True)
def count_pairs(pairs, first, spare, item_B, liked_B, learn_B, signal_B, hist_item, hist_code, power, gain):
    """Count each event's item, from the `first` one on, with the user's previous ones.

    Channels: 0 both liked, lag < 100 · 1 all, lag < 30 · 2 forward, lag < 10 ·
    3 backward, lag < 10 · 4 forward, lag < 4 · 5 as 1, asymmetric and decaying
    in time (`gain` grows instead). `power[c, lag]` is the channel's weight at a lag,
    multiplied by the event's signal. What was disliked is paired with nothing.
    Returns the event at which the arena has less room than `spare`, or how many there are.
    """
    reach = min(hist_item.shape[1], 100)
    for b in range(first, item_B.shape[0]):
        if item_B[b] < 0 or not learn_B[b]:
            continue
        if pairs[5][-1] + spare > pairs[0].shape[0]:
            return b
        lag = 0
        while lag < reach:
            lag, row = _count_event(
                pairs, b, lag, item_B, liked_B, signal_B, hist_item, hist_code, reach, power, gain
            )  # fmt: skip
            if row >= 0:
                _make_ready(pairs, row)
    return item_B.shape[0]


@njit(cache=True, nogil=True)
def most_partners(filled, hist_item, reach):
    """[Q] how many partners the histories' items have."""
    partners_Q = np.zeros(hist_item.shape[0], np.int64)
    for q in range(hist_item.shape[0]):
        for lag in range(min(hist_item.shape[1], reach)):
            if hist_item[q, lag] >= 0:
                partners_Q[q] += filled[hist_item[q, lag]]
    return partners_Q


@njit(cache=True, nogil=True)
def _meet(here, met_I, row_T, n):
    """Note partners that were not met yet after the n that were; returns how many there are then."""
    for s in range(here.shape[0]):
        j = here[s]
        if not met_I[j]:
            met_I[j] = True
            row_T[n] = j
            n += 1
    return n


@njit(cache=True, nogil=True)
def partners(pairs, hist_item, reach, met_I, row_N):
    """The histories' items and their partners, each once; returns how many. `met_I` is false before and afterwards."""
    neighbour, _, start, _, filled, _, _, _, _ = pairs
    n = 0
    for q in range(hist_item.shape[0]):
        for lag in range(min(hist_item.shape[1], reach)):
            i = hist_item[q, lag]
            if i < 0 or i >= row_N.shape[0]:
                continue
            if not met_I[i]:
                met_I[i] = True
                row_N[n] = i
                n += 1
            n = _meet(neighbour[start[i] : start[i] + filled[i]], met_I, row_N, n)
    for t in range(n):
        met_I[row_N[t]] = False
    return n


@njit(cache=True, nogil=True)
def cosines(pairs, rows_Q, root_I, out_QI):
    """out[q, j] = both liked (channel 0) times the roots of a row and of each of its partners j."""
    neighbour, value, start, _, filled, _, _, _, _ = pairs
    for q in range(rows_Q.shape[0]):
        row = rows_Q[q]
        for s in range(start[row], start[row] + filled[row]):
            out_QI[q, neighbour[s]] = value[s, 0] * root_I[row] * root_I[neighbour[s]]


@njit(cache=True, nogil=True)
def score_pairs(
    pairs, hist_item, hist_code, liking_3, channel_S, decay_SL, reach_S, from_IS, onto_IS,
    sum_IS, met_I, start_Q, size_Q, row_T, score_TS,
):  # fmt: skip
    """score[j, s] = sum over lags of decay[s, lag] * liking * value[i, j, channel[s]] * from[i, s] * onto[j, s], or 0.

    `reach_S` (descending) is how many lags each score looks back, `liking_3` is
    that of a history's entries: others, liked, disliked. Each question's
    partners j stand in `row_T`, in the order they are met. `sum_IS` is 0 and
    `met_I` false everywhere, and so they are again afterwards.
    """
    neighbour, value, start, _, filled, _, _, _, _ = pairs
    scores = channel_S.shape[0]
    weight = np.zeros(scores, np.float32)
    end = 0
    for q in range(hist_item.shape[0]):
        start_Q[q] = end
        for lag in range(min(hist_item.shape[1], reach_S[0])):
            i = hist_item[q, lag]
            if i < 0 or filled[i] == 0:
                continue
            code = hist_code[q, lag]
            liking = liking_3[2 if code >> 11 & 1 else code & 1]
            live = 0
            while live < scores and reach_S[live] > lag:
                weight[live] = decay_SL[live, lag] * liking * from_IS[i, live]
                live += 1
            begin, n = start[i], filled[i]
            here, counts = neighbour[begin : begin + n], value[begin : begin + n]
            end = _meet(here, met_I, row_T, end)
            m = 0
            while m + 4 <= live:
                # Where the sums of a partner lie is sought once for four of them.
                w, x, y, z = weight[m], weight[m + 1], weight[m + 2], weight[m + 3]
                a, b, c, d = channel_S[m], channel_S[m + 1], channel_S[m + 2], channel_S[m + 3]
                for s in range(n):
                    j = here[s]
                    sum_IS[j, m] += w * counts[s, a]
                    sum_IS[j, m + 1] += x * counts[s, b]
                    sum_IS[j, m + 2] += y * counts[s, c]
                    sum_IS[j, m + 3] += z * counts[s, d]
                m += 4
            while m < live:
                share, channel = weight[m], channel_S[m]
                for s in range(n):
                    sum_IS[here[s], m] += share * counts[s, channel]
                m += 1
        size_Q[q] = end - start_Q[q]
        for t in range(start_Q[q], end):
            j = row_T[t]
            met_I[j] = False
            for m in range(scores):
                score_TS[t, m] = max(sum_IS[j, m] * onto_IS[j, m], np.float32(0))
                sum_IS[j, m] = 0
