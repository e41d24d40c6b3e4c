"""The loops over what was shown and what was then taken, in order."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def expose(
    before_N, user_N, item_N, place_N, second_N, user_B, item_B, positive_B, second_B,
    ring_item, ring_place, ring_second, written_U, window, shown_IP, click_I, click_P,
):  # fmt: skip
    """Count impressions by item and place, and each positive for the impression that it follows.

    A positive is a click on its user's latest impression of the item, where
    that is at most `window` seconds old; it clears the item from the user's ring.
    """
    slots = ring_item.shape[1]
    n = 0
    for b in range(user_B.shape[0] + 1):
        while n < item_N.shape[0] and before_N[n] <= b:
            user = user_N[n]
            slot = written_U[user] % slots
            ring_item[user, slot] = item_N[n]
            ring_place[user, slot] = place_N[n]
            ring_second[user, slot] = second_N[n]
            written_U[user] += 1
            shown_IP[item_N[n], place_N[n]] += np.float32(1.0)
            n += 1
        if b == user_B.shape[0] or not positive_B[b]:
            continue
        user, item = user_B[b], item_B[b]
        latest = -1
        for s in range(slots):
            if ring_item[user, s] == item:
                ring_item[user, s] = -1
                in_time = second_B[b] - ring_second[user, s] <= window
                if in_time and (latest < 0 or ring_second[user, s] >= ring_second[user, latest]):
                    latest = s
        if latest >= 0:
            click_I[item] += np.float32(1.0)
            click_P[ring_place[user, latest]] += np.float32(1.0)


@njit(cache=True, nogil=True)
def passed_over(ring_item, ring_place, ring_second, written_U, user_Q, page, examined_P, rows_QC, passed_I, out_QC):
    """out[q, c] = how often, by the chance of examination, the user was shown a row and did not take it.

    `passed_I` is 0 everywhere, and so it is again afterwards.
    What was shown within `page` seconds of the user's latest impression may yet be taken.
    """
    slots = ring_item.shape[1]
    for q in range(user_Q.shape[0]):
        user = user_Q[q]
        out_QC[q, :] = 0
        if user >= written_U.shape[0] or written_U[user] == 0:
            continue
        open_since = ring_second[user, (written_U[user] - 1) % slots] - page
        for s in range(slots):
            item = ring_item[user, s]
            if item >= 0 and ring_second[user, s] < open_since:
                passed_I[item] += examined_P[ring_place[user, s]]
        for c in range(rows_QC.shape[1]):
            out_QC[q, c] = passed_I[rows_QC[q, c]]
        for s in range(slots):
            if ring_item[user, s] >= 0:
                passed_I[ring_item[user, s]] = 0
