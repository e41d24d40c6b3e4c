"""Answers that name few items say what dense ones would; scratch room is each thread's own."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from pipeline.learning.banned import Banned
from pipeline.learning.ordering import best
from pipeline.learning.ranks import best as ranked_best
from pipeline.learning.ranks import rank_of
from pipeline.learning.scratch import Scratch
from pipeline.learning.sparse import Listed, Order, Rising, SparseAnswer, falling, fused

ITEMS = 60


def listed_of(score_QIS: torch.Tensor, chance: np.random.Generator) -> Listed:
    """Whatever is not 0, in a random order."""
    starts, sizes, rows, scores = [], [], [], []
    for score_IS in score_QIS.numpy():
        named = chance.permutation(np.flatnonzero((score_IS != 0).any(1)))
        starts.append(sum(sizes))
        sizes.append(len(named))
        rows.append(named)
        scores.append(score_IS[named])
    return Listed(
        np.array(starts), np.array(sizes), np.concatenate(rows).astype(np.int32),
        np.concatenate(scores).astype(np.float32).reshape(-1, score_QIS.shape[2]),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_a_sparse_answer_says_what_a_dense_one_would(seed: int) -> None:
    chance, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    score_QIS = (torch.rand(5, ITEMS, 3, generator=generator) * 4).round() / 4
    score_QIS *= torch.rand(5, ITEMS, 1, generator=generator) < (0.1, 0.5, 1)[seed % 3]
    banned_QI = torch.rand(5, ITEMS, generator=generator) < 0.3
    answer = SparseAnswer(listed_of(score_QIS, chance), ITEMS)
    rows_QC = torch.randint(0, ITEMS, (5, 9), generator=generator)
    for _ in range(2):  # what is left behind by one use does not show in the next
        assert torch.equal(answer.at(rows_QC), score_QIS.gather(1, rows_QC[:, :, None].expand(-1, -1, 3)))
        for column in range(3):
            assert torch.equal(answer.whole(column), score_QIS[:, :, column])
            for n in (1, 7, ITEMS + 5):
                rows_QN, meant_QN = answer.propose(column, n, Banned.of(banned_QI))
                dense_QN, dense_meant_QN = best(score_QIS[:, :, column].contiguous(), Banned.of(banned_QI), n)
                assert torch.equal(meant_QN, dense_meant_QN)
                assert torch.equal(rows_QN[meant_QN], dense_QN[meant_QN])


@pytest.mark.parametrize("seed", range(30))
def test_a_sparse_answer_ranks_the_whole_catalogue_as_a_dense_one_would(seed: int) -> None:
    chance, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    score_QIS = (torch.rand(7, ITEMS, 2, generator=generator) * 4).round() / 4
    score_QIS *= torch.rand(7, ITEMS, 1, generator=generator) < (0.05, 0.5, 1)[seed % 3]
    banned = Banned.of(torch.rand(7, ITEMS, generator=generator) < (0.0, 0.3, 0.97)[seed // 3 % 3])
    target_Q = torch.randint(0, ITEMS + 3, (7,), generator=generator)
    answer = SparseAnswer(listed_of(score_QIS, chance), ITEMS)
    for column in range(2):
        whole_QI = score_QIS[:, :, column].contiguous()
        rank_Q, top_QN = answer.ranked(column, banned, target_Q, 10)
        assert torch.equal(rank_Q, rank_of(whole_QI, banned, target_Q))
        assert torch.equal(top_QN, ranked_best(whole_QI, banned, 10))


@pytest.mark.parametrize("seed", range(20))
def test_a_shared_order_proposes_what_sorting_for_each_would(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    items = (ITEMS, 5_000)[seed % 2]
    score_I = (torch.randn(items, generator=generator) * 3).round()
    score_I[torch.rand(items, generator=generator) < 0.05] = -torch.inf
    banned_QI = torch.rand(4, items, generator=generator) < (0.1, 0.95)[seed // 2 % 2]
    order = Order(score_I)
    for n in (3, 200):
        rows_QN, meant_QN = order.best(Banned.of(banned_QI), n)
        dense_QN, dense_meant_QN = best(score_I[None], Banned.of(banned_QI), n)
        assert torch.equal(meant_QN, dense_meant_QN)
        assert torch.equal(rows_QN[meant_QN], dense_QN[meant_QN])
    expected = torch.argsort(score_I, descending=True, stable=True)[:50]
    assert torch.equal(torch.from_numpy(falling(score_I.numpy(), 50)), expected)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_proposed_is_fused_and_filled_up_however_much_is_banned(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    items, n = 3_000, 40
    filler_I = torch.rand(items, generator=generator) * 1e-3
    rows_QP = torch.randint(0, items, (3, 90), generator=generator)
    meant_QP, share_P = torch.rand(3, 90, generator=generator) < 0.7, torch.rand(90, generator=generator) + 1e-3
    banned_QI = torch.rand(3, items, generator=generator) < (0.2, 0.99)[seed % 2]
    order, banned = Order(filler_I), Banned.of(banned_QI)
    rows_QC, present_QC = fused(rows_QP, meant_QP, share_P, lambda score_N: score_N, order, banned, n)
    whole_QI = filler_I.repeat(3, 1).scatter_add_(1, rows_QP, meant_QP * share_P)
    dense_QC, dense_present_QC = best(whole_QI, Banned.of(banned_QI), n)
    assert torch.equal(present_QC, dense_present_QC)
    assert torch.equal(rows_QC[present_QC], dense_QC[present_QC])


def test_scratch_room_is_each_threads_own() -> None:
    scratch = Scratch(-1, np.int64)
    scratch.of(10)[3] = 7
    found = []
    thread = threading.Thread(target=lambda: found.append(scratch.of(10)[:10].tolist()))
    thread.start()
    thread.join()
    assert found == [[-1] * 10]
    assert scratch.of(10)[3] == 7


@pytest.mark.parametrize("seed", range(12))
def test_an_order_that_is_carried_on_is_that_of_all_scores(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    room, items = torch.zeros(40_000), 9_000
    rising = Rising()
    for step in range(40):
        items = min(items + (0, 0, 900)[step % 3], len(room))
        rows = torch.randint(0, min(items + 50, len(room)), (6 * (step % 4),), generator=generator)
        room.index_add_(0, rows, torch.randint(1, 4, (len(rows),), generator=generator).float() / 4)
        rising.raised(rows)
        if step % 17 == 16:  # whoever brings all scores down says so
            room /= 3
            rising.forget()
        if step % 5 < 3:
            n = (50, 700, 5_000, 20_000)[step // 10 if seed % 2 else 0]
            found = rising.order(room[:items], 2.0).first(n)
            assert np.array_equal(found[:n], falling(room[:items].numpy(), items)[:n])
            assert len(found) >= min(n, items)
