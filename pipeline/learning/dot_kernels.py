"""Products of candidates' vectors with a few of the question's own: candidates side by side, so that they go in step.

Sums run over the vectors' numbers in their order, the same whichever questions are asked together. Vectors' width is a
multiple of 4.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def _side_by_side(vector_IP, rows_C, out_PC):
    """Gather rows as columns."""
    for c in range(rows_C.shape[0]):
        for p in range(vector_IP.shape[1]):
            out_PC[p, c] = vector_IP[rows_C[c], p]


@njit(cache=True, nogil=True)
def _multiply(vector_PC, asked_P, out_C):
    """Every column's product with one vector; returns whether that is not all zeros: if it is, nothing is done."""
    if not asked_P.any():
        return False
    out_C[:] = 0
    for p in range(0, asked_P.shape[0], 4):
        first, second, third, fourth = asked_P[p], asked_P[p + 1], asked_P[p + 2], asked_P[p + 3]
        for c in range(out_C.shape[0]):
            out_C[c] += (
                first * vector_PC[p, c] + second * vector_PC[p + 1, c]
                + third * vector_PC[p + 2, c] + fourth * vector_PC[p + 3, c]
            )  # fmt: skip
    return True


@njit(cache=True, nogil=True)
def dots(vector_IP, rows_QC, asked_QP, out_QC):
    """out[q, c] = the product of a candidate's vector with the question's."""
    vector_PC = np.empty((vector_IP.shape[1], rows_QC.shape[1]), np.float32)
    for q in range(rows_QC.shape[0]):
        _side_by_side(vector_IP, rows_QC[q], vector_PC)
        if not _multiply(vector_PC, asked_QP[q], out_QC[q]):
            out_QC[q] = 0


@njit(cache=True, nogil=True)
def _nearest(vector_PC, asked_LP, dot_C, out_C):
    """The greatest of the products with each of several vectors; one of zeros gives 0."""
    out_C[:] = -np.inf
    for lag in range(asked_LP.shape[0]):
        if not _multiply(vector_PC, asked_LP[lag], dot_C):
            dot_C[:] = 0
        for c in range(out_C.shape[0]):
            out_C[c] = max(out_C[c], dot_C[c])


@njit(cache=True, nogil=True)
def cosines(vector_IP, rows_QC, mean_QP, said_QP, near_QLP, disliked_QLP, out_QC3):
    """Of each candidate: the product with the mean; the greatest with those near, less that above 0 with those disliked
    (of whom there may be none); the product with what was said."""
    places = rows_QC.shape[1]
    vector_PC = np.empty((vector_IP.shape[1], places), np.float32)
    mean_C, near_C, said_C = np.empty(places, np.float32), np.empty(places, np.float32), np.empty(places, np.float32)
    dot_C, away_C = np.empty(places, np.float32), np.zeros(places, np.float32)
    for q in range(rows_QC.shape[0]):
        _side_by_side(vector_IP, rows_QC[q], vector_PC)
        if not _multiply(vector_PC, mean_QP[q], mean_C):
            mean_C[:] = 0
        if not _multiply(vector_PC, said_QP[q], said_C):
            said_C[:] = 0
        _nearest(vector_PC, near_QLP[q], dot_C, near_C)
        if disliked_QLP.shape[1] > 0:
            _nearest(vector_PC, disliked_QLP[q], dot_C, away_C)
        for c in range(places):
            out_QC3[q, c, 0] = mean_C[c]
            out_QC3[q, c, 1] = near_C[c] - max(away_C[c], np.float32(0))
            out_QC3[q, c, 2] = said_C[c]
