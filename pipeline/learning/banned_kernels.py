"""The loops over what may not be answered: a question's own rows stamped into shared room, and out of it again.

`ban` is (shown_I, start_Q, stop_Q, row_T, mark_I): what everybody may be shown, and question q's own banned rows
`row_T[start_Q[q] : stop_Q[q]]`. `mark_I` is false everywhere between two uses, and has room for every row.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def stamp(ban, q):
    """From here on `is_banned` speaks of question q."""
    _, start_Q, stop_Q, row_T, mark_I = ban
    for t in range(start_Q[q], stop_Q[q]):
        mark_I[row_T[t]] = True


@njit(cache=True, nogil=True)
def lift(ban, q):
    """Take question q's stamps away."""
    _, start_Q, stop_Q, row_T, mark_I = ban
    for t in range(start_Q[q], stop_Q[q]):
        mark_I[row_T[t]] = False


@njit(cache=True, nogil=True)
def is_banned(ban, row):
    """Whether the stamped question may not be answered with this row."""
    return ban[4][row] | (not ban[0][row])


@njit(cache=True, nogil=True)
def spread(start_Q, stop_Q, row_T, out_QI):
    """Set each question's rows."""
    for q in range(start_Q.shape[0]):
        for t in range(start_Q[q], stop_Q[q]):
            if row_T[t] < out_QI.shape[1]:
                out_QI[q, row_T[t]] = True


@njit(cache=True, nogil=True)
def mark_among(start_Q, stop_Q, row_T, mark_I, rows_R, out_QR):
    """Whether each of some rows that all questions share is one of the question's own."""
    for q in range(start_Q.shape[0]):
        for t in range(start_Q[q], stop_Q[q]):
            mark_I[row_T[t]] = True
        for r in range(rows_R.shape[0]):
            out_QR[q, r] = mark_I[rows_R[r]]
        for t in range(start_Q[q], stop_Q[q]):
            mark_I[row_T[t]] = False


@njit(cache=True, nogil=True)
def look_up(ban, rows_QC, out_QC):
    """Whether each of these rows is banned."""
    for q in range(rows_QC.shape[0]):
        stamp(ban, q)
        for c in range(rows_QC.shape[1]):
            out_QC[q, c] = is_banned(ban, rows_QC[q, c])
        lift(ban, q)


@njit(cache=True, nogil=True)
def count_left(ban, shown, left_Q):
    """How many of the `shown` rows that everybody may be shown each question may be answered with."""
    shown_I, start_Q, stop_Q, row_T, _ = ban
    for q in range(start_Q.shape[0]):
        left_Q[q] = shown
        for t in range(start_Q[q], stop_Q[q]):
            left_Q[q] -= shown_I[row_T[t]]
