"""The circumstances of a question, as numbers that the dynamic weights depend on: all from before the next event."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning import context_kernels as kernels
from pipeline.learning.batch import Questions
from pipeline.learning.circumstances import TOLD, nothing_told

KINDS = 8
CLOCK = 4
HISTORY = 9
FIXED = HISTORY + CLOCK + KINDS + TOLD

CLOCK_SIZE, KIND_SIZE = 0.1, 0.3
"""Small, since on three data sets neither says anything: a weight must be sure of it before it counts."""


def context(questions: Questions, track_UK: Tensor) -> Tensor:
    """[Q, FIXED + K]: how much history, how recent and liked it is; of the last event clock, type and `context`.

    Then how right each column lately was for the user. Of the request's own
    time nothing is known: gaps are those inside the history.
    """
    history = questions.history
    told = questions.told or nothing_told(len(questions))
    out_QX = torch.empty(len(questions), FIXED + track_UK.shape[1])
    item_QL, code_QL, time_QL = history.item_QL.numpy(), history.code_QL.numpy(), history.time_QL.numpy()
    history_QX, last_QX = out_QX[:, :HISTORY].numpy(), out_QX[:, HISTORY : FIXED - TOLD].numpy()
    kernels.history_features(item_QL, code_QL, time_QL, history.count_Q.numpy(), history_QX)
    kernels.last_features(item_QL, code_QL, time_QL, told.zone_N.numpy(), CLOCK_SIZE, KIND_SIZE, last_QX)
    out_QX[:, FIXED - TOLD : FIXED] = told.features()
    torch.index_select(track_UK, 0, questions.user_Q.long(), out=out_QX[:, FIXED:])
    return out_QX
