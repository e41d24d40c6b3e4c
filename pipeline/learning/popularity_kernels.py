"""The loop that looks candidates' counts up.

Single-threaded and without fast-math, so that the same input gives the same bits.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def counts_at(
    count_HI, gain_H, stage_GI, stage_gain, liked_2I, stage_Q, floor, events_before, liked_before, rows_QC, out_QCS
):  # fmt: skip
    """Of each row its count at every horizon, then at the question's stage, then its likes as a part of its events."""
    horizons = count_HI.shape[0]
    before, liked = np.float32(events_before), np.float32(events_before * liked_before)
    for q in range(rows_QC.shape[0]):
        stage_I = stage_GI[stage_Q[q]]
        for c in range(rows_QC.shape[1]):
            row = rows_QC[q, c]
            for h in range(horizons):
                out_QCS[q, c, h] = count_HI[h, row] / gain_H[h]
            out_QCS[q, c, horizons] = stage_I[row] / stage_gain[0] + np.float32(floor)
            out_QCS[q, c, horizons + 1] = (liked_2I[0, row] + liked) / (liked_2I[1, row] + before)
