"""The quick ways to put in order give what stable sorts give, bit for bit, ties and odd numbers included."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from pipeline.learning.banned import Banned
from pipeline.learning.ordering import FEW, best, greatest
from pipeline.learning.ordering_kernels import compare


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
        rows_QN, meant_QN = best(score_QI, Banned.of(banned_QI), n)
        expected_QN = (sorted_QI != 0)[:, :n] & (sorted_QI > -torch.inf)[:, :n]
        assert torch.equal(meant_QN, expected_QN)
        assert torch.equal(rows_QN[meant_QN], order_QI[:, :n][meant_QN])
        assert ((rows_QN >= 0) & (rows_QN < items)).all()


def test_one_row_of_scores_does_for_all_questions() -> None:
    score_I, banned_QI = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[True, False, False], [False, False, True]])
    assert best(score_I, Banned.of(banned_QI), 2)[0].tolist() == [[2, 1], [0, 1]]


@pytest.mark.parametrize("seed", range(36))
@pytest.mark.parametrize("size", [1, 20, 120, FEW + 10])
@pytest.mark.parametrize("n", [1, 10, FEW + 1])
def test_the_greatest_are_those_of_a_stable_sort(seed: int, size: int, n: int) -> None:
    score_QC = scores(seed, (3, size))
    wanted_QN = torch.argsort(score_QC, dim=1, descending=True, stable=True)[:, :n]
    assert torch.equal(greatest(score_QC, n), wanted_QN)


def test_of_no_items_none_are_best() -> None:
    rows_QN, meant_QN = best(torch.zeros(2, 0), Banned.of(torch.zeros(2, 0, dtype=torch.bool)), 5)
    assert rows_QN.shape == meant_QN.shape == (2, 0)


@pytest.mark.parametrize("seed", range(36))
@pytest.mark.parametrize("size", [2, 20, 120, FEW + 1, 700])
def test_a_rank_is_how_many_of_those_present_are_greater(seed: int, size: int) -> None:
    value_QCS = scores(seed, (2, size, 3)).clamp(-1e9, 1e9)
    present_QC = torch.rand(2, size, generator=torch.Generator().manual_seed(seed)) < (0.5, 1)[seed % 2]
    value_QCS[:, 0], present_QC[:, 0] = 5.0, True  # so that hardly a column says the same of all
    out_QCK = torch.empty(2, size, 6)
    places = torch.arange(1, size + 1).float()
    all_asked_S, logarithmic_S = torch.ones(3, dtype=torch.bool), torch.tensor([False, True, False])
    score_QCS, log_QCS = value_QCS.clone(), torch.full_like(value_QCS, torch.nan)
    score_QCS[:, :, 1], log_QCS[:, :, 1] = torch.nan, value_QCS[:, :, 1]
    compare(
        score_QCS.numpy(), log_QCS.numpy(), logarithmic_S.numpy(), present_QC.numpy(), all_asked_S.numpy(), 1e-12,
        places.numpy(), out_QCK.numpy(),
    )  # fmt: skip
    greater_QCCS = (value_QCS[:, None, :, :] > value_QCS[:, :, None, :]) & present_QC[:, None, :, None]
    rank_QCS = torch.where(present_QC[:, :, None], 1 + greater_QCCS.sum(2), 0)
    there_QCS = value_QCS.masked_fill(~present_QC[:, :, None], torch.nan)
    varied_Q1S = there_QCS.nan_to_num(-torch.inf).amax(1, True) != there_QCS.nan_to_num(torch.inf).amin(1, True)
    assert torch.equal(out_QCK[:, :, 3:].long(), rank_QCS * varied_Q1S)
