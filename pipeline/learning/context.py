"""The circumstances of a question, as numbers that the dynamic weights depend on: all from before the next event."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.learning.batch import Questions, level_of, liked_of

FIXED = 9


def context(questions: Questions, track_UK: Tensor) -> Tensor:
    """[Q, FIXED + K]: how much history, how recent and liked it is, and how right each column lately was for the user.

    Of the request's own time nothing is known: gaps are those inside the history.
    """
    history = questions.history
    count_Q = history.count_Q.float()
    here_QL = (history.item_QL[:, :10] != -1).float()
    length_Q = here_QL.sum(1).clamp(min=1)
    liked_Q = (liked_of(history.code_QL[:, :10]) * here_QL).sum(1) / length_Q
    level_Q = (level_of(history.code_QL[:, :10]) * here_QL).sum(1) / length_Q / 5
    time_QL = history.time_QL[:, :10].double()
    last_gap_Q = torch.log1p((time_QL[:, 0] - time_QL[:, 1]).clamp(min=0) * here_QL[:, 1]).float()
    oldest_Q = time_QL.gather(1, (length_Q.long() - 1)[:, None])[:, 0]
    span_Q = torch.log1p((time_QL[:, 0] - oldest_Q).clamp(min=0)).float()
    text_Q = (history.item_QL[:, :5] < -1).any(1).float()
    fixed_QX = torch.stack(
        [
            (count_Q == 0).float(),
            (count_Q < 5).float(),
            torch.log1p(count_Q) / 5,
            count_Q.clamp(max=50) / 50,
            liked_Q,
            level_Q,
            last_gap_Q / 15,
            span_Q / 15,
            text_Q,
        ],
        dim=1,
    )
    return torch.cat([fixed_QX, track_UK[questions.user_Q]], dim=1)
