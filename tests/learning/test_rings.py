"""Rings of growing room: what they hold is what a ring of full length would hold."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
import pytest
import torch

from pipeline.learning import ring_kernels as kernels
from pipeline.learning.rings import Rings


def put(rings: Rings, slot: int, n: int, value: int) -> None:
    """Entry n of a slot."""
    rings.reserve_far(np.array([slot], dtype=np.int32), np.array([max(n + 1 - int(rings.room_S[slot]), 1)]))
    place = kernels.place_for(rings.ring(), slot, n)
    rings.word_NW[place] = torch.tensor([value, -value], dtype=torch.int32)
    rings.half_NH[place] = value % 1000


def held(rings: Rings, slot: int, count: int) -> list[int]:
    """A slot's entries, the latest first."""
    ring = rings.ring()
    places = [kernels.place_of(ring, slot, count - 1 - lag) for lag in range(min(count, rings.length))]
    for place in places:
        value = int(rings.word_NW[place, 0])
        assert (int(rings.word_NW[place, 1]), int(rings.half_NH[place, 0])) == (-value, value % 1000)
    return [int(rings.word_NW[place, 0]) for place in places]


@pytest.mark.parametrize("length", [8, 10, 16, 100])
def test_every_slot_holds_its_latest_entries_whoever_comes_and_goes(length: int) -> None:
    rings, chance = Rings(length, words=2, halves=1), random.Random(length)
    rings.grow(12)
    expected: list[deque[int]] = [deque(maxlen=length) for _ in range(12)]
    count = [0] * 12
    for value in range(1, 3_000):
        slot = min(chance.randrange(12), chance.randrange(12))
        put(rings, slot, count[slot], value)
        expected[slot].appendleft(value)
        count[slot] += 1
        if chance.random() < 0.01:
            gone = chance.randrange(12)
            rings.give_back(np.array([gone], dtype=np.int32))
            expected[gone].clear()
            count[gone] = 0
        if value % 500 == 0:
            kept = Rings(length, words=2, halves=1)
            kept.load("kept", rings.state("kept"))
            rings = kept
    assert [held(rings, slot, count[slot]) for slot in range(12)] == [list(entries) for entries in expected]


def test_a_slot_takes_room_for_what_it_holds_and_gives_it_to_others() -> None:
    rings = Rings(100, words=2, halves=1)
    rings.grow(3)
    rooms = []
    for n in range(101):
        put(rings, 0, n, n + 1)
        rooms.append(int(rings.room_S[0]))
    assert sorted(set(rooms)) == [8, 16, 32, 64, 100]
    assert [rooms.index(room) for room in (8, 16, 32, 64, 100)] == [0, 8, 16, 32, 64]
    extent = int(rings.extent_1)
    for n in range(64):
        put(rings, 1, n, n + 1)
    assert int(rings.extent_1) == extent, "the blocks that were outgrown are given out again"


def test_nothing_of_a_slot_remains_once_it_is_given_back() -> None:
    rings = Rings(100, words=2, halves=1)
    rings.grow(2)
    for n in range(40):
        put(rings, 1, n, 777)
    rings.give_back(np.array([1], dtype=np.int32))
    assert not (rings.word_NW.abs() == 777).any()
    assert not (rings.half_NH == 777).any()
    assert int(rings.room_S[1]) == 0


def test_room_for_an_entry_far_on_is_made_at_once() -> None:
    rings = Rings(100, words=2, halves=1)
    rings.grow(1)
    put(rings, 0, 250, 9)
    assert int(rings.room_S[0]) == 100
    ring = rings.ring()
    assert int(rings.word_NW[kernels.place_of(ring, 0, 250), 0]) == 9


def test_an_entry_that_no_room_was_reserved_for_is_refused() -> None:
    rings = Rings(100, words=2, halves=1)
    rings.grow(9)
    for slot in range(8):
        kernels.place_for(rings.ring(), slot, 0)
    with pytest.raises(IndexError, match="reserved"):
        kernels.place_for(rings.ring(), 8, 0)
