"""Each item's nearest texts: what brute force finds, however the vectors came and whatever was asked before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.learning.clusters import LEVELS
from pipeline.learning.nearest import FEW, LISTED, Nearest

WIDTH = 16


def vectors(count: int, seed: int = 1) -> Tensor:
    """Unit rows in clusters, a tenth of them zero: those have no text."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(8, WIDTH, generator=generator)
    rows = centre[torch.randint(0, 8, (count,), generator=generator)] + 0.5 * torch.randn(
        count, WIDTH, generator=generator
    )
    return normalize(rows, dim=1) * (torch.rand(count, 1, generator=generator) > 0.1)


def brute_force(vector_IP: Tensor, row: int) -> tuple[list[int], list[float]]:
    """The LISTED nearest by whole-number vectors, equal ones by row."""
    whole_IP = (vector_IP * LEVELS).round().double().numpy()
    cosine_I = whole_IP @ whole_IP[row] / LEVELS**2
    order = [int(i) for i in np.argsort(-cosine_I, kind="stable") if i != row and cosine_I[i] > 0][:LISTED]
    return order, [float(cosine_I[i]) for i in order]


def lists(nearest: Nearest, rows: Tensor) -> tuple[Tensor, Tensor]:
    """These rows' lists and their cosines."""
    slot_N, near_SN, cosine_SN = nearest.of(rows)
    return near_SN[slot_N], cosine_SN[slot_N]


def check(nearest: Nearest, vector_IP: Tensor, rows: Tensor) -> None:
    """These rows' lists are brute force's."""
    slot_N, near_SN, cosine_SN = nearest.of(rows)
    for row, slot in zip(rows.tolist(), slot_N.tolist(), strict=True):
        order, cosines = brute_force(vector_IP, row)
        found = near_SN[slot].tolist()
        assert found == order + [-1] * (LISTED - len(order))
        assert cosine_SN[slot, : len(order)].tolist() == pytest.approx(cosines, abs=1e-6)


@pytest.mark.parametrize("count", [1, 30, 400])
def test_lists_are_those_of_brute_force(count: int) -> None:
    vector_IP, nearest = vectors(count), Nearest(WIDTH)
    nearest.all_moved(vector_IP)
    check(nearest, vector_IP, torch.arange(count))


@pytest.mark.parametrize("moving", [1, 5, FEW + 1])
def test_lists_that_were_asked_for_before_follow_what_moves(moving: int) -> None:
    vector_IP, nearest, known = vectors(300), Nearest(WIDTH), 300
    nearest.all_moved(vector_IP)
    check(nearest, vector_IP, torch.arange(300))
    for seed in (2, 3, 4):
        fresh = vectors(moving // 2 + moving, seed)
        rows = torch.cat([torch.arange(moving // 2) + 10 * seed, torch.arange(known, known + moving)])
        known += moving
        vector_IP = torch.cat([vector_IP, torch.zeros(moving, WIDTH)])
        vector_IP[rows] = fresh
        nearest.moved(rows, fresh)
        check(nearest, vector_IP, torch.arange(0, known, 7))


def test_a_list_does_not_depend_on_what_was_asked_before() -> None:
    vector_IP = vectors(500)
    at_once, one_by_one = Nearest(WIDTH), Nearest(WIDTH)
    at_once.all_moved(vector_IP)
    for start in range(0, 500, 50):
        rows = torch.arange(start, start + 50)
        one_by_one.moved(rows, vector_IP[rows])
        one_by_one.of(torch.arange(0, start + 50, 3))
    rows = torch.arange(500)
    for mine, theirs in zip(lists(at_once, rows), lists(one_by_one, rows), strict=True):
        assert torch.equal(mine, theirs)


def test_rows_without_a_vector_are_in_nobodys_list() -> None:
    nearest = Nearest(WIDTH)
    nearest.all_moved(torch.cat([vectors(20), torch.zeros(5, WIDTH)]))
    near_NN, _ = lists(nearest, torch.arange(25))
    assert int(near_NN.max()) < 20
    assert (near_NN[20:25] == -1).all()
    assert nearest.of(torch.tensor([99, -1]))[0].tolist() == [-1, -1]
