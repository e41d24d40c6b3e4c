"""Headrace inside a program: the same learner, kept in a file, and what is wrong raised."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Headrace
from pipeline.messages import Event, Undecodable


def shop() -> Headrace:
    made = Headrace(model="hashing-64", clock=lambda: 1_700_000_000.0)
    made.items({"item_id": f"i{n}", "title": f"{'tea' if n % 2 else 'shoes'} {n}"} for n in range(12))
    made.learn(*({"event_type": "like", "user_id": f"u{n % 3}", "item_id": f"i{n % 12}"} for n in range(40)))
    return made


def test_a_saved_state_goes_on_as_it_was(tmp_path: Path) -> None:
    first = shop()
    first.save(tmp_path / "state")
    second = Headrace(model="hashing-64", clock=lambda: 1_700_000_000.0)
    second.load(tmp_path / "state")
    assert second.recommend("u1") == first.recommend("u1")
    for one in (first, second):
        one.learn(Event("purchase", 1_700_000_000_000, user_id="u1", item_id="i3"))
    assert second.recommend("u1", n=5) == first.recommend("u1", n=5)
    other = Headrace(model="hashing-32")
    with pytest.raises(ValueError, match="not saved under these settings"):
        other.load(tmp_path / "state")


def test_what_it_is_told_it_heeds() -> None:
    made = shop()
    shown = {item.item_id for item in made.recommend("u1", n=12)}
    made.withdraw("i3")
    made.learn({"event_type": "purchase", "user_id": "u1", "item_id": "i4"})
    assert {item.item_id for item in made.recommend("u1", n=12)} == shown - {"i3", "i4"}
    assert "i5" not in {item.item_id for item in made.recommend("u1", exclude=["i5"])}
    made.learn({"event_type": "search", "user_id": "new", "text": "tea"})
    assert made.recommend("new")
    made.erase("u1")
    with pytest.raises(KeyError):
        made.why("u1", "i5")
    assert [item.item_id for item in made.recommend("nobody", n=2)]


def test_what_is_wrong_is_raised_and_changes_nothing() -> None:
    made = shop()
    before = made.recommend("u1")
    for wrong in ({"event_type": "like", "user_id": "u1"}, {"event_type": "like", "user_id": "", "item_id": "i1"}):
        with pytest.raises(Undecodable):
            made.learn(wrong)
    with pytest.raises(Undecodable):
        made.items([{"item_id": "i1", "vector": [float("nan")]}])
    assert made.recommend("u1") == before
