"""The circumstances of a question, as numbers that the dynamic weights depend on: all from before the next event."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline.learning.batch import NO_ITEM, History, Questions, kind_of, level_of, liked_of
from pipeline.learning.circumstances import TOLD, Told, nothing_told

KINDS = 8
CLOCK = 4
FIXED = 9 + CLOCK + KINDS + TOLD

CLOCK_SIZE, KIND_SIZE = 0.1, 0.3
"""Small, since on three data sets neither says anything: a weight must be sure of it before it counts."""

DAY_S = 86_400


def context(questions: Questions, track_UK: Tensor) -> Tensor:
    """[Q, FIXED + K]: how much history, how recent and liked it is; of the last event clock, type and `context`.

    Then how right each column lately was for the user. Of the request's own
    time nothing is known: gaps are those inside the history.
    """
    history = questions.history
    count_Q = history.count_Q.float()
    here_QL = (history.item_QL[:, :10] != NO_ITEM).float()
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
    told = questions.told or nothing_told(len(questions))
    last_QX = torch.cat([_clock(history, told), _kind(history)], dim=1) * (history.item_QL[:, :1] != NO_ITEM)
    return torch.cat([fixed_QX, last_QX, told.features(), track_UK[questions.user_Q]], dim=1)


def _clock(history: History, told: Told) -> Tensor:
    """[Q, CLOCK] hour of the day and day of the week of the last event, each as a point on a circle, where the user is.

    Times count from 2000-01-01, a Saturday.
    """
    local_Q = history.time_QL[:, 0].double() + 60 * told.zone_N.double()
    turns = [2 * math.pi * local_Q / DAY_S, 2 * math.pi * torch.floor(local_Q / DAY_S) / 7]
    points = [part for turn in turns for part in (torch.sin(turn), torch.cos(turn))]
    return torch.stack(points, dim=1).float() * CLOCK_SIZE


def _kind(history: History) -> Tensor:
    """[Q, KINDS] the last event's type, hashed."""
    kind_Q = kind_of(history.code_QL[:, 0]).long() % KINDS
    return torch.nn.functional.one_hot(kind_Q, KINDS).float() * KIND_SIZE
