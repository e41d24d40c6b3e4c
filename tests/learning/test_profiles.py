"""What a question is made of, worked out plainly beside the loops that do it."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.learning.banned import Banned, Rows
from pipeline.learning.batch import NO_ITEM, History, Interactions, Questions, pack_code
from pipeline.learning.catalogue import PROJECTED, Catalogue
from pipeline.learning.context import HISTORY, context
from pipeline.learning.scorer import Observation
from pipeline.learning.scorers.content import Content
from pipeline.learning.scorers.neighbours import Neighbours
from pipeline.learning.scorers.popularity import HORIZONS, STAGES, Popularity
from pipeline.learning.texts import Texts

ITEMS = 40
OTHER, LIKED, DISLIKED = (
    pack_code(3, 2, False, False),
    pack_code(5, 4, True, False),
    pack_code(1, 0, False, False, True),
)


def history_of(rows: list[list[tuple[int, int, int]]], length: int = 12) -> History:
    """Histories of (item, code, seconds), the latest first."""
    item, code, time = (torch.full((len(rows), length), fill) for fill in (NO_ITEM, 0, 0))
    for q, row in enumerate(rows):
        for lag, (i, c, t) in enumerate(row):
            item[q, lag], code[q, lag], time[q, lag] = i, c, t
    count = torch.tensor([len(row) for row in rows])
    return History(item.int(), code.short(), time.int(), count.int())


def asked(history: History) -> Questions:
    nothing = Banned(torch.ones(ITEMS, dtype=torch.bool), Rows.none(len(history.count_Q)))
    return Questions(torch.arange(len(history.count_Q)), history, nothing)


@pytest.fixture
def vectors() -> torch.Tensor:
    return normalize(torch.randn(ITEMS, PROJECTED, generator=torch.Generator().manual_seed(1)), dim=1)


@pytest.fixture
def content(vectors: torch.Tensor) -> Content:
    catalogue, texts = Catalogue(), Texts()
    catalogue.projected_IP = vectors.clone()
    for axis in range(3):
        texts.add(torch.eye(PROJECTED)[axis])
    return Content(catalogue, texts)


def test_a_profile_is_the_faded_mean_of_what_was_liked_and_said_less_what_was_disliked(
    content: Content, vectors: torch.Tensor
) -> None:
    rows = [[(4, LIKED, 9), (-3, OTHER, 8), (7, DISLIKED, 7), (8, OTHER, 6)], [], [(9, OTHER, 5)]]
    history = history_of(rows)
    answer = content.ask(asked(history))
    every = torch.arange(ITEMS).expand(3, -1)
    mean = vectors[4] + 0.9 * torch.eye(PROJECTED)[1] - 0.81 * vectors[7] + 0.3 * 0.729 * vectors[8]
    by_mean, nearest, by_text = answer.at(every).unbind(2)
    torch.testing.assert_close(by_mean[0], vectors @ normalize(mean, dim=0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_mean[2], vectors @ vectors[9], atol=1e-5, rtol=1e-5)
    near = torch.stack([vectors[4], torch.eye(PROJECTED)[1], vectors[8], torch.zeros(PROJECTED)])
    away = (vectors @ vectors[7]).clamp(min=0)
    torch.testing.assert_close(nearest[0], (vectors @ near.T).amax(1) - away, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_text[0], vectors[:, 1], atol=1e-5, rtol=1e-5)
    assert not by_mean[1].any()
    assert not by_text[1:].any()


def test_the_texts_that_count_are_those_of_the_last_entries(content: Content) -> None:
    rows = [
        [(-3, OTHER, 9), (4, OTHER, 8), (-2, OTHER, 7)],
        [(4, OTHER, 9)] * 5 + [(-2, OTHER, 1)],
        [(-3, OTHER, 9)],
    ]
    said_QP = content.ask(asked(history_of(rows)))._asked.said_QP  # type: ignore[attr-defined]
    torch.testing.assert_close(said_QP[0], normalize(torch.eye(PROJECTED)[:2].sum(0), dim=0))
    assert not said_QP[1].any()
    torch.testing.assert_close(said_QP[2], torch.eye(PROJECTED)[1])


def test_a_text_that_was_overwritten_says_nothing(vectors: torch.Tensor) -> None:
    catalogue, texts = Catalogue(), Texts(capacity=64)
    catalogue.projected_IP = vectors
    for n in range(100):
        texts.add(torch.eye(PROJECTED)[n % PROJECTED])
    history = history_of([[(-2 - 35, OTHER, 9)], [(-2 - 36, OTHER, 9)], [(-2 - 99, OTHER, 9)]])
    found = Content(catalogue, texts).ask(asked(history))._asked  # type: ignore[attr-defined]
    assert not found.mean_QP[0].any()
    torch.testing.assert_close(found.mean_QP[1:], torch.eye(PROJECTED)[[36, 99 % PROJECTED]])


def test_the_circumstances_of_a_history() -> None:
    rows = [
        [(4, LIKED, 5_000), (-2, OTHER, 4_000), (7, OTHER, 1_000)],
        [],
        [(9, LIKED, 100)],
        [(n, LIKED, 10 - n) for n in range(11)],
    ]
    history = history_of(rows)
    history.count_Q[3] = 60
    found = context(asked(history), torch.zeros(4, 2))[:, :HISTORY]
    length = torch.tensor([3, 0, 1, 60])
    wanted = torch.stack(
        [
            (length == 0).float(),
            (length < 5).float(),
            torch.log1p(length.float()) / 5,
            length.clamp(max=50) / 50,
            torch.tensor([1 / 3, 0, 1, 1]),
            torch.tensor([(4 + 2 + 2) / 3, 0, 4, 4]) / 5,
            torch.tensor([math.log1p(1_000), 0, 0, math.log1p(1)]) / 15,
            torch.tensor([math.log1p(4_000), 0, 0, math.log1p(9)]) / 15,
            torch.tensor([1.0, 0, 0, 0]),
        ],
        dim=1,
    )
    torch.testing.assert_close(found, wanted)


def test_counts_are_looked_up_as_they_stand() -> None:
    popularity, chance = Popularity(), torch.Generator().manual_seed(2)
    popularity.resize(ITEMS, 1)
    popularity.count_HI = torch.rand(popularity.count_HI.shape, generator=chance)
    popularity.gain_H = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    popularity.stage_GI = torch.rand(popularity.stage_GI.shape, generator=chance)
    popularity.stage_gain[0] = 5.0
    popularity.liked_2I = torch.rand(popularity.liked_2I.shape, generator=chance)
    history = history_of([[], [(1, LIKED, 3)] * 6])
    rows_QC = torch.randint(0, ITEMS, (2, 7), generator=chance)
    found = popularity.ask(asked(history)).at(rows_QC)
    for h in range(len(HORIZONS)):
        torch.testing.assert_close(found[:, :, h], popularity.count_HI[h, rows_QC] / float(popularity.gain_H[h]))
    stage_Q = torch.tensor([0, sum(stage < 6 for stage in STAGES)])
    torch.testing.assert_close(found[:, :, -2], popularity.stage_GI[stage_Q[:, None], rows_QC] / 5 + 0.05)
    liked_QC, events_QC = popularity.liked_2I[:, rows_QC]
    torch.testing.assert_close(found[:, :, -1], (liked_QC + 2.5) / (events_QC + 5))


def test_items_liked_together_are_near_by_the_cosine_of_their_likes() -> None:
    neighbours, size = Neighbours(8, 12), 30
    neighbours.resize(ITEMS, 5)
    chance = torch.Generator().manual_seed(3)
    before = history_of(
        [[(int(i), LIKED, 1) for i in torch.randperm(ITEMS, generator=chance)[:5]] for _ in range(size)]
    )
    item = torch.randint(0, ITEMS, (size,), generator=chance)
    yes = torch.ones(size, dtype=torch.bool)
    code = torch.full((size,), LIKED, dtype=torch.int16)
    time, user = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    events = Interactions(user, item, code, time, yes, yes, torch.ones(size), torch.ones(size))
    neighbours.observe(Observation(events, before, yes, yes))
    rows = torch.arange(ITEMS)
    found = neighbours.nearest(rows, ITEMS)
    wanted = torch.zeros(ITEMS, ITEMS)
    for row, (partners, cosine) in zip(rows.tolist(), neighbours.partners(rows), strict=True):
        wanted[row, partners] = cosine
    assert wanted.any()
    torch.testing.assert_close(found, wanted)
