"""The quick ways to put in order give what stable sorts give, bit for bit, ties and odd numbers included."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from pipeline.learning.ordering import FEW, best, ranks


def scores(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Random numbers of one of many kinds: ties, zeros of both signs, negatives, infinities, giants, denormals."""
    chance = random.Random(seed)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10.0 ** chance.choice([-42, -3, 0, 30])
    kinds = [
        drawn,
        (drawn * 2).round(),
        torch.zeros(shape),
        drawn.clamp(min=0),
        torch.where(drawn > 0, -0.0, -drawn.abs()),
        torch.where(drawn > 0, drawn, -torch.inf),
    ]
    return kinds[seed % len(kinds)]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("items", [1, 2, 19, 64, 900])
def test_the_best_rows_are_those_of_a_stable_sort(seed: int, items: int) -> None:
    score_QI = scores(seed, (3, items))
    banned_QI = torch.rand(3, items, generator=torch.Generator().manual_seed(seed)) < (0, 0.1, 0.9, 1)[seed % 4]
    sorted_QI, order_QI = torch.sort(score_QI.masked_fill(banned_QI, -torch.inf), dim=1, descending=True, stable=True)
    for n in (1, 7, 60, FEW + 1):
        rows_QN, meant_QN = best(score_QI, banned_QI, n)
        expected_QN = (sorted_QI != 0)[:, :n] & (sorted_QI > -torch.inf)[:, :n]
        assert torch.equal(meant_QN, expected_QN)
        assert torch.equal(rows_QN[meant_QN], order_QI[:, :n][meant_QN])
        assert ((rows_QN >= 0) & (rows_QN < items)).all()


def test_one_row_of_scores_does_for_all_questions() -> None:
    score_I, banned_QI = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[True, False, False], [False, False, True]])
    assert best(score_I, banned_QI, 2)[0].tolist() == [[2, 1], [0, 1]]


def test_of_no_items_none_are_best() -> None:
    rows_QN, meant_QN = best(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 5)
    assert rows_QN.shape == meant_QN.shape == (2, 0)


@pytest.mark.parametrize("seed", range(36))
@pytest.mark.parametrize("size", [1, 20, 120, FEW + 1])
def test_a_rank_is_how_many_are_greater(seed: int, size: int) -> None:
    value_QCS = scores(seed, (2, size, 3))
    greater_QCCS = value_QCS[:, None, :, :] > value_QCS[:, :, None, :]
    assert torch.equal(ranks(value_QCS).long(), greater_QCCS.sum(2))
