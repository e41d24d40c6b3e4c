"""Rows of pairs whose room grows: what is in them is what was put there, wherever they have moved to."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.learning import pair_kernels as kernels
from pipeline.learning.pairs import ROOMS, Pairs

ITEMS, LAGS = 150, 12


def counted(pairs: Pairs, batches: int, seed: int, exact: dict[tuple[int, int], float]) -> None:
    """Events of items at random with items before them, counted here and in `exact`."""
    chance = np.random.default_rng(seed)
    for _ in range(batches):
        item_B = (ITEMS * chance.random(30) ** 3).astype(np.int64)
        hist_item = (ITEMS * chance.random((30, LAGS)) ** 2).astype(np.int32)
        done, liked, signal = 0, np.ones(30, np.bool_), np.ones(30, np.float32)
        power, gain = np.ones((6, LAGS), np.float32), np.ones(1, np.float32)
        spare = int(pairs.sizes[-1]) * (LAGS + 3)
        while done < 30:
            pairs.reserve(spare)
            codes = np.ones((30, LAGS), np.int16)
            done = kernels.count_pairs(
                pairs.arrays(), done, spare, item_B, liked, liked, signal, hist_item, codes, power, gain
            )
        for item, before in zip(item_B.tolist(), hist_item.tolist(), strict=True):
            for other in before:
                if other != item:
                    for pair in ((item, other), (other, item)):
                        exact[pair] = exact.get(pair, 0) + 1


def held(pairs: Pairs) -> dict[tuple[int, int], float]:
    """Pair and its first count."""
    found = {}
    for row in range(ITEMS):
        partners, value_NC = pairs.of(row)
        found |= {(row, j): value for j, value in zip(partners.tolist(), value_NC[:, 0].tolist(), strict=True)}
    return found


def check_room(pairs: Pairs) -> None:
    """No two rows, nor free room, share a place; all that was ever taken is one or the other."""
    taken = np.zeros(int(pairs.free_Z[-1]), np.int64)
    for row in range(ITEMS):
        begin, room = int(pairs.start_I[row]), int(pairs.room_I[row])
        assert int(pairs.filled_I[row]) <= room
        taken[begin : begin + room] += 1
    for size, begin in zip(pairs.sizes.tolist(), pairs.free_Z[:-1].tolist(), strict=True):
        while begin >= 0:
            taken[begin : begin + size] += 1
            begin = int(pairs.neighbour_T[begin])
    assert (taken == 1).all()


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_move_keep_what_was_counted(seed: int) -> None:
    pairs, exact = Pairs(ITEMS, 6), dict[tuple[int, int], float]()
    pairs.resize(ITEMS)
    for part in range(6):
        counted(pairs, 5, 10 * seed + part, exact)
        assert held(pairs) == exact
        check_room(pairs)
    assert {int(room) for room in pairs.room_I[:ITEMS]} & {ROOMS[0], ROOMS[1], ITEMS}


@pytest.mark.parametrize("slots", [5, 8, 40])
def test_a_row_has_no_more_partners_than_it_may(slots: int) -> None:
    pairs = Pairs(slots, 6)
    pairs.resize(ITEMS)
    counted(pairs, 20, slots, {})
    assert int(pairs.filled_I.max()) == slots
    check_room(pairs)


@pytest.mark.parametrize("slots", [5, 8, 9, 20])
def test_the_weakest_partner_makes_room_whether_or_not_it_was_looked_for_anew(slots: int) -> None:
    remembering, looking = Pairs(slots, 6), Pairs(slots, 6)
    chance = np.random.default_rng(5)
    yes, signal, code = np.ones(1, np.bool_), np.ones(1, np.float32), np.ones((1, 1), np.int16)
    power, gain = np.ones((6, 1), np.float32), np.ones(1, np.float32)
    for pairs in (remembering, looking):
        pairs.resize(30)
    evicted = 0
    for n in range(4_000):
        item, before = (30 * chance.random((2, 1)) ** 2).astype(np.int64)
        signal[0] = chance.choice([0.5, 1.0, 2.0])
        for pairs in (remembering, looking):
            pairs.reserve(100)
            full = pairs.filled_I == slots
            evicted += int(full.sum())
            kernels.count_pairs(
                pairs.arrays(), 0, 50, item, yes, yes, signal, before[None].astype(np.int32), code, power, gain
            )
        looking.weak_IW.fill_(-1)
        if n % 500 == 499:
            for pairs in (remembering, looking):
                pairs.fade(0.5)
    assert evicted > 1_000
    for name, tensor in remembering.state().items():
        assert np.array_equal(tensor.numpy(), looking.state()[name].numpy()), name


@pytest.mark.parametrize("odd", [np.inf, np.nan])
def test_counts_that_are_no_numbers_end(odd: float) -> None:
    pairs = Pairs(5, 6)
    pairs.resize(ITEMS)
    counted(pairs, 20, 1, {})
    pairs.value_TC[:] = odd
    counted(pairs, 2, 2, {})
    check_room(pairs)
