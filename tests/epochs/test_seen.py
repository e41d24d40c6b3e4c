"""What is remembered of events' ids: for the window, not for ever, in a form that a restart finds as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.epochs.seen import GENERATIONS, Seen

WINDOW = 1_000
START = 1_700_000_000_000
HOUR = 3_600_000


def hashed(number: int) -> int:
    """An id's hash as the ledger makes them: any 64 bits."""
    return int(np.random.default_rng(number).integers(-(2**63), 2**63 - 1))


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 400)), max_size=80), st.integers(0, 79))
def test_an_id_is_remembered_for_the_window_and_not_for_two(said: list[tuple[int, int]], cut: int) -> None:
    seen, now, last = Seen(WINDOW), START, dict[int, int]()
    for n, (number, passed) in enumerate(said):
        now += passed
        is_new = seen.add(hashed(number), now)
        age = now - last.get(number, -(2**60))
        if age <= WINDOW:
            assert not is_new
        if age > WINDOW + WINDOW // GENERATIONS + 400:
            assert is_new
        if is_new:
            last[number] = now
        seen.forget_before(now - WINDOW)
        if n == cut:
            other = Seen(WINDOW)
            other.load({name: tensor.clone() for name, tensor in seen.state().items()})
            assert len(other) == len(seen)
            seen = other


def test_a_restored_memory_goes_on_as_the_one_that_was_saved() -> None:
    one, other = Seen(WINDOW), Seen(WINDOW)
    for n in range(3_000):
        one.add(hashed(n), START + n)
    other.load({name: tensor.clone() for name, tensor in one.state().items()})
    for n in range(2_000, 6_000):
        assert one.add(hashed(n), START + n) == other.add(hashed(n), START + n) == (n >= 3_000)
        if n % 500 == 0:
            one.forget_before(START + n - WINDOW)
            other.forget_before(START + n - WINDOW)
    mine, theirs = one.state(), other.state()
    assert all(torch.equal(mine[name], theirs[name]) for name in Seen.STATE)


def test_a_stream_of_any_length_is_remembered_in_so_many_bytes_as_its_window_has() -> None:
    seen, most = Seen(HOUR), 0
    chance = np.random.default_rng(3)
    for n in range(120):
        for key in chance.integers(-(2**63), 2**63 - 1, 1_000).tolist():
            seen.add(key, START + n * HOUR // 20)
        seen.forget_before(START + n * HOUR // 20 - HOUR)
        most = max(most, seen.nbytes)
    assert 20_000 <= len(seen) <= 26_000
    assert most <= 26_000 * 15


def test_odd_times_make_no_parts_of_their_own() -> None:
    seen = Seen(HOUR)
    seen.forget_before(START)
    for n in range(2_000):
        assert seen.add(hashed(n), n * HOUR)
    assert seen.nbytes < 2_000 * 20
    assert not seen.add(hashed(3), START)


def test_a_ledger_of_a_million_ids_is_some_dozen_megabytes(shop_of: Any, settings_of: Any) -> None:
    shop = shop_of(settings_of())
    ledger = shop.processor.ledger
    for n in range(100_000):
        assert not ledger.is_duplicate("event", f"u{n % 997}", f"e{n}", shop.now)
    assert ledger.remembered.nbytes <= 15 * 100_000
    for n in range(0, 100_000, 911):
        assert ledger.is_duplicate("event", f"u{n % 997}", f"e{n}", shop.now)


def test_an_epoch_that_says_an_id_twice_takes_the_first(shop_of: Any, settings_of: Any) -> None:
    shop = shop_of(settings_of())
    twice = [shop.event("ann", item, event_id="e1", at=shop.now + n) for n, item in enumerate(("i1", "i2"))]
    counts = shop.apply(*twice[::-1], shop.event("bob", "i3", event_id="e1")).applied.counts
    assert (counts.consumed, counts.duplicate, counts.trained) == (3, 1, 2)
    users, catalogue = shop.processor.learner.users, shop.processor.learner.catalogue
    history, _ = users.windows(torch.tensor([users.ids.find("ann")]), 0)
    assert history.item_QL[0, :2].tolist() == [catalogue.ids.find("i1"), -1]
    assert shop.apply(shop.event("ann", "i4", event_id="e1")).applied.counts.duplicate == 1


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4 * WINDOW)), max_size=80), st.integers(0, 80))
def test_ids_told_together_are_remembered_as_one_by_one(said: list[tuple[int, int]], cut: int) -> None:
    one_by_one, together = Seen(WINDOW), Seen(WINDOW)
    for part in (said[:cut], said[cut:]):
        keys, times = [hashed(number) for number, _ in part], [START + passed for _, passed in part]
        expected = [not one_by_one.add(key, time) for key, time in zip(keys, times, strict=True)]
        found = together.add_all(np.array(keys, np.int64), np.array(times, np.int64))
        assert found.tolist() == expected
        for seen in (one_by_one, together):
            seen.forget_before(START + WINDOW // 2)
    mine, theirs = one_by_one.state(), together.state()
    assert all(torch.equal(mine[name], theirs[name]) for name in Seen.STATE)
