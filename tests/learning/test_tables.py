"""Hash tables against plain sets and dictionaries, keys crowded so that they collide, wrap and move up."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.learning import tables
from pipeline.learning.tables import KeyMap, KeySet

UNTIMED = hypothesis_settings(deadline=None)
crowded = st.tuples(st.integers(-3, 3), st.integers(0, 9)).map(lambda at: (at[0] << 32) + at[1])
key = st.one_of(crowded, st.integers(-(2**63), 2**63 - 1))


@UNTIMED
@given(st.lists(key, max_size=200))
def test_a_key_set_against_a_set(keys: list[int]) -> None:
    found, expected = KeySet(), set[int]()
    for one in keys:
        assert found.add(one) == ((one or 1) not in expected)
        expected.add(one or 1)
        assert len(found) == len(expected)
    assert all(one in found for one in keys)
    assert {int(slot) for slot in found.slots if slot} == expected
    again = KeySet(found.slots.copy())
    assert len(again) == len(found)
    assert all((one + 11 in again) == ((one + 11 or 1) in expected) for one in keys if abs(one) < 2**62)


@UNTIMED
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 11)), max_size=80), st.integers(0, 2**32 - 1))
def test_who_leaves_a_table_hides_nobody_behind_them(moves: list[tuple[bool, int]], about: int) -> None:
    slots, expected = np.zeros(16, dtype=np.int64), set[int]()
    for comes, number in moves:
        wish = (about + (number % 3) * (1 << 28)) % (1 << 32)
        one = ((wish - (1 << 32) if wish >> 31 else wish) << 32) + 1 + number
        at = tables.find(slots, one)
        assert (at >= 0) == (one in expected)
        if comes and at < 0:
            tables.place(slots, one)
            expected.add(one)
        elif not comes and at >= 0:
            tables.take_out(slots, at)
            expected.remove(one)
        assert all(tables.find(slots, other) >= 0 for other in expected)
        assert np.count_nonzero(slots) == len(expected)


@UNTIMED
@given(st.lists(st.tuples(key, st.integers(-5, 5)), max_size=200))
def test_a_key_map_against_a_dictionary(puts: list[tuple[int, int]]) -> None:
    found, expected = KeyMap(), dict[int, int]()
    for one, value in puts:
        found.put(one, value)
        expected[one or 1] = value
    again = KeyMap(found.slots.copy(), found.values.copy())
    for here in (found, again):
        assert len(here) == len(expected)
        assert all(here.get(one, -9) == value for one, value in expected.items())
    assert found.get(2**61 + 12345, -9) == expected.get(2**61 + 12345, -9)


def test_the_same_keys_in_the_same_order_make_the_same_table() -> None:
    keys = np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 5_000).tolist()
    one, other = KeySet(), KeySet()
    for each in keys:
        one.add(each)
    for each in keys[:2_500]:
        other.add(each)
    other = KeySet(other.slots.copy())
    for each in keys[2_500:]:
        other.add(each)
    assert np.array_equal(one.slots, other.slots)


@UNTIMED
@given(st.lists(key, max_size=400), st.lists(key, max_size=40), st.integers(0, 400))
def test_keys_put_in_together_make_the_table_that_they_make_one_by_one(
    keys: list[int], elsewhere: list[int], cut: int
) -> None:
    one_by_one, together = KeySet(), KeySet()
    expected = [one in elsewhere or not one_by_one.add(one) for one in keys]
    here = np.isin(keys, elsewhere)
    for part in (slice(None, cut), slice(cut, None)):
        each = np.array(keys[part], np.int64)
        together.put_all(np.where(each == 0, 1, each), here[part])
    assert here.tolist() == expected
    assert np.array_equal(one_by_one.slots, together.slots)
    assert len(one_by_one) == len(together)


def test_a_key_takes_ten_to_fifteen_bytes() -> None:
    keys = KeySet()
    for n, each in enumerate(np.random.default_rng(2).integers(-(2**63), 2**63 - 1, 20_000).tolist(), 1):
        keys.add(each)
        assert n < 64 or 9.9 <= keys.slots.nbytes / n <= 15.1
