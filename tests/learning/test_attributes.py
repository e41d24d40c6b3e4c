"""Attributes as traits and as columns: numbers are scaled online, tastes for traits are learned, users forgotten."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.learning.banned import Banned
from pipeline.learning.batch import NO_ITEM, History, Interactions, Questions, pack_code
from pipeline.learning.scorer import Observation
from pipeline.learning.scorers.attributes import Attributes
from pipeline.learning.traits import MOST, MOST_ATTRIBUTES, Traits

AFFINITY, CROSSED = range(2)
LIKED = pack_code(0, 4, True, True)


def held(traits: Traits, row: int) -> dict[int, float]:
    """A row's traits and their weights."""
    pairs = zip(traits.trait_RT[row].tolist(), traits.weight_RT[row].tolist(), strict=True)
    return {trait: weight for trait, weight in pairs if weight > 0}


def likeness(traits: Traits, one: int, other: int) -> float:
    """How much weight two rows share."""
    first, second = held(traits, one), held(traits, other)
    return sum(min(weight, second.get(trait, 0)) for trait, weight in first.items())


class TestTraits:
    def test_words_are_shared_across_rows_whatever_their_order(self) -> None:
        traits = Traits()
        traits.take(0, ("a", "b"), {"brand": "x"})
        traits.take(1, ("b", "a"), {"brand": "x"})
        traits.take(2, ("c",), {"brand": "y"})
        assert held(traits, 0) == held(traits, 1)
        assert likeness(traits, 0, 2) == 0

    def test_near_numbers_are_alike_on_the_scale_of_their_attribute(self) -> None:
        traits = Traits()
        prices = [1.2**n for n in range(60)]
        for row, price in enumerate(prices):
            traits.take(row, (), {"price": price})
        for row, price in enumerate([5.0, 5.2, 5_000.0, 5_200.0, 9_000.0], 60):
            traits.take(row, (), {"price": price})
        assert likeness(traits, 60, 61) > 0.9
        assert likeness(traits, 62, 63) > 0.9
        assert likeness(traits, 60, 62) == 0
        assert sum(held(traits, 64).values()) == pytest.approx(1)

    def test_rows_follow_the_marks_as_they_are_learned(self) -> None:
        early, late = Traits(), Traits()
        numbers = random.Random(5).sample(range(1000), 256)
        for row, number in enumerate(numbers):
            early.take(row, (), {"n": number})
        for row, number in reversed(list(enumerate(numbers))):
            late.take(row, (), {"n": number})
        assert torch.equal(early.mark_AM, late.mark_AM)
        assert torch.equal(early.trait_RT, late.trait_RT)
        assert torch.equal(early.weight_RT, late.weight_RT)

    def test_few_values_are_told_apart_exactly(self) -> None:
        traits = Traits()
        for row in range(40):
            traits.take(row, (), {"stars": row % 5})
        assert likeness(traits, 0, 1) == 0
        assert likeness(traits, 0, 5) == 1

    def test_a_new_description_takes_the_place_of_the_old(self) -> None:
        traits = Traits()
        traits.take(0, ("a",), {"price": 3, "colour": "red"})
        traits.take(0, ("b",), {})
        other = Traits()
        other.take(0, ("b",), {})
        assert held(traits, 0) == held(other, 0)

    def test_more_numbers_than_before_leave_the_words(self) -> None:
        traits = Traits()
        traits.take(0, ("a", "b"), {"x": 1})
        before = held(traits, 0)
        traits.take(1, ("a",), {"x": 1, "y": 2, "z": 3})
        assert held(traits, 0) == before

    def test_hostile_descriptions_are_bounded(self) -> None:
        traits = Traits()
        traits.take(0, [f"w{n}" for n in range(10 * MOST)], {f"k{n}": n for n in range(100)})
        assert traits.trait_RT.shape[1] <= 4 * MOST
        for n in range(MOST_ATTRIBUTES + 20):
            traits.take(1, (), {f"only{n}": 1e308, "big": 10**400})
        assert len(traits.key_A) == MOST_ATTRIBUTES
        assert torch.isfinite(traits.weight_RT).all()

    def test_state_goes_on_as_it_was(self) -> None:
        one, other = Traits(), Traits()
        for row in range(30):
            one.take(row, ("a",), {"n": row})
        other.load({name: tensor.clone() for name, tensor in one.state().items()})
        for traits in (one, other):
            for row in range(30, 90):
                traits.take(row, ("b",), {"n": row, "m": -row})
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())


def history(rows: list[list[int]]) -> History:
    """Histories of liked items, the latest first."""
    item = torch.full((len(rows), 8), NO_ITEM, dtype=torch.int32)
    for q, liked in enumerate(rows):
        item[q, : len(liked)] = torch.tensor(liked, dtype=torch.int32)
    code = torch.full((len(rows), 8), LIKED, dtype=torch.int16)
    return History(item, code, torch.zeros(len(rows), 8, dtype=torch.int32), torch.tensor([len(r) for r in rows]))


def likes(users: list[int], items: list[int], before: list[list[int]]) -> Observation:
    """Users like items; `before` are their histories."""
    n = len(users)
    true = torch.ones(n, dtype=torch.bool)
    events = Interactions(
        torch.tensor(users), torch.tensor(items), torch.full((n,), LIKED, dtype=torch.int16),
        torch.zeros(n, dtype=torch.int64), true, true, torch.ones(n), torch.zeros(n),
    )  # fmt: skip
    return Observation(events, history(before), true, true)


def shop() -> Attributes:
    """Items 0 to 19 are red or blue (odd), users 0 to 9 young or old (odd); all users know all items' colours."""
    traits = Traits()
    for row in range(20):
        traits.take(row, ("blue" if row % 2 else "red",), {"price": row})
    scorer = Attributes(7, traits)
    scorer.resize(20, 10)
    for user in range(10):
        scorer.describe(user, {"age": "old" if user % 2 else "young"})
    return scorer


def scores(scorer: Attributes, column: int, users: list[int], before: list[list[int]]) -> Tensor:
    """[Q, 20] a column's scores."""
    banned = Banned.of(torch.zeros(len(users), 20, dtype=torch.bool))
    return scorer.ask(Questions(torch.tensor(users), history(before), banned)).whole(column)


def of_colour(score_I: Tensor) -> tuple[float, float]:
    """Mean score of red and of blue items."""
    return float(score_I[0::2].mean()), float(score_I[1::2].mean())


class TestColumns:
    def test_affinity_is_for_what_the_user_likes_more_than_others_do(self) -> None:
        scorer = shop()
        scorer.observe(likes([0] * 8, [0, 2, 4, 6, 8, 10, 1, 3], [[]] * 8))
        red, blue = of_colour(scores(scorer, AFFINITY, [1], [[1, 3, 5]])[0])
        assert blue > red
        assert of_colour(scores(scorer, AFFINITY, [1], [[]])[0]) == (0.0, 0.0)

    def test_crosses_learn_who_likes_what_without_any_history(self) -> None:
        scorer = shop()
        for n in range(60):
            items = [(n * 4 + user % 2 + 2 * (user // 2)) % 20 for user in range(8)]
            scorer.observe(likes(list(range(8)), items, [[]] * 8))
        young, old = scores(scorer, CROSSED, [8, 9], [[], []])
        assert of_colour(young)[0] > of_colour(young)[1] + 0.1
        assert of_colour(old)[1] > of_colour(old)[0] + 0.1

    def test_forgotten_user_is_like_one_never_described(self) -> None:
        scorer = shop()
        for _ in range(20):
            scorer.observe(likes(list(range(8)), [0, 1, 2, 3, 4, 5, 6, 7], [[]] * 8))
        assert not torch.equal(*scores(scorer, CROSSED, [8, 9], [[], []]))
        scorer.forget(8)
        scorer.forget(9)
        assert torch.equal(*scores(scorer, CROSSED, [8, 9], [[], []]))
        assert not scorer.users.trait_RT[8].any()

    def test_rows_alone_are_rows_of_the_whole(self) -> None:
        scorer = shop()
        scorer.observe(likes([0, 1, 2], [3, 4, 5], [[1], [2], [0]]))
        nothing = Banned.of(torch.zeros(2, 20, dtype=torch.bool))
        questions = Questions(torch.tensor([3, 4]), history([[5, 2], [1]]), nothing)
        answer = scorer.ask(questions)
        rows = torch.tensor([[4, 0, 19], [7, 7, 3]])
        for column in range(2):
            whole = answer.whole(column)
            assert torch.equal(answer.at(rows)[:, :, column], whole.gather(1, rows))

    def test_state_goes_on_bit_for_bit(self) -> None:
        one = shop()
        one.observe(likes([0, 1], [3, 4], [[1], [2]]))
        other = Attributes(7, one._items)
        other.load({name: tensor.clone() for name, tensor in one.state().items()})
        for scorer in (one, other):
            scorer.observe(likes([2, 3], [8, 9], [[4], [3]]))
        assert all(torch.equal(tensor, other.state()[name]) for name, tensor in one.state().items())
        assert np.isfinite(one.weight_W.numpy()).all()
