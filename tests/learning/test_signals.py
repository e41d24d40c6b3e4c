"""What an event teaches: dislikes push away, repeats weigh less, values scale, impressions are position-corrected."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.encoding.hashing import HashingEncoder
from pipeline.learning.banned import Banned
from pipeline.learning.batch import Questions
from pipeline.learning.learner import Learner
from pipeline.learning.lists import recommend
from pipeline.learning.scorers.impressions import Impressions
from pipeline.messages import Event, Item, Source, Vector
from pipeline.settings import EventType, Learning, Metrics, Publishing, Settings
from pipeline.step import step

ENCODER = HashingEncoder(64)
START = 1_700_000_000_000
KINDS = ("leather boot", "green tea", "desk lamp", "blue ink", "wool scarf")


def learner_of(**event_types: EventType) -> Learner:
    """Thirty items of five kinds, six near-duplicates each: item n is of kind n % 5."""
    settings = Settings(
        learning=Learning(
            width=16, sequence=8, history=32, candidates=40, neighbours=16, interest_steps=1, micro_batch=16,
            event_types=event_types,
        ),
        publishing=Publishing(lists={"home": {"size": 30}}),
        metrics=Metrics(peers=False),
    )  # fmt: skip
    learner = Learner(settings, torch.device("cpu"))
    for n in range(30):
        learner.catalogue.describe(Item(f"i{n}"))
    rows = ENCODER.encode([f"{KINDS[n % 5]} {KINDS[n % 5]} number {n}" for n in range(30)])
    assert learner.catalogue.unusable(rows[0], ENCODER.identity) is None
    learner.catalogue.take_vectors(
        [Vector(f"i{n}", row.astype("<f4").tobytes(), ENCODER.identity, "", Source(0, n)) for n, row in enumerate(rows)]
    )
    learner.resize()
    return learner


def learn(learner: Learner, *events: Event) -> None:
    step(learner, events, [event.timestamp for event in events], START)


def event(kind: str, user: str, item: int | None, at: int = 0, **more: Any) -> Event:
    return Event(kind, START + 1000 * at, user, item_id=None if item is None else f"i{item}", **more)


def shown_to(learner: Learner, user: str) -> list[int]:
    """Their list, as the numbers of its items."""
    [made] = recommend(learner, [learner.users.row(user)], START)
    return [int(row.item_id[1:]) for row in made.items]


def mean_place(ranking: list[int], kind: int, but: int) -> float:
    return float(np.mean([place for place, n in enumerate(ranking) if n % 5 == kind and n != but]))


@hypothesis_settings(max_examples=6, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 29)), min_size=5, max_size=40), st.integers(0, 29))
def test_a_dislike_pushes_what_is_like_it_down(past: list[tuple[int, int]], disliked: int) -> None:
    """With `negative` off the same event is one of the history like any, and draws its kind up."""
    places = []
    for learner in (learner_of(), learner_of(dislike=EventType(positive=False, consumes=True))):
        clicks = [event("click", f"u{user}", item, at) for at, (user, item) in enumerate(past)]
        learn(learner, *clicks, event("click", "ann", (disliked + 1) % 30, 90), event("dislike", "ann", disliked, 91))
        ranking = shown_to(learner, "ann")
        assert disliked not in ranking
        places.append(mean_place(ranking, disliked % 5, disliked))
    assert places[0] > places[1]


def test_after_a_dislike_its_near_duplicates_fall() -> None:
    learner = learner_of()
    learn(learner, *[event("click", f"u{n}", n % 30, n) for n in range(10)])
    learn(learner, *[event("click", "ann", n, 20 + n) for n in (0, 7, 13)])
    before = shown_to(learner, "ann")
    learn(learner, event("dislike", "ann", 12, 100))
    after = shown_to(learner, "ann")
    assert 12 in before
    assert 12 not in after
    assert mean_place(after, 2, 12) > mean_place(before, 2, 12) + 3


def test_what_was_disliked_is_no_neighbour() -> None:
    learner = learner_of()
    learn(learner, event("click", "ann", 1), event("dislike", "ann", 2, 1), event("click", "ann", 3, 2))
    rows = [learner.catalogue.ids.find(f"i{n}") for n in (1, 2, 3)]
    assert [int(learner.neighbours.pairs.filled_I[row]) for row in rows] == [1, 0, 1]
    assert float(learner.popularity.count_HI[0, rows[1]]) == 0


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_nth_same_event_teaches_one_nth(micro_batches: int) -> None:
    learner = learner_of()
    clicks = [event("click", "ann", 1, n) for n in range(6)]
    for part in np.array_split(np.arange(6), micro_batches):
        learn(learner, *[clicks[n] for n in part])
    learn(learner, event("like", "ann", 1, 7), event("click", "bob", 1, 8))
    row = learner.catalogue.ids.find("i1")
    expected = 0.7 * sum(1 / n for n in range(1, 7)) + 1.0 + 0.7
    assert float(learner.popularity.count_HI[0, row]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "factor"),
    [(None, 1.0), (0.0, 0.0), (15.0, math.log2(1.5)), (30.0, 1.0), (90.0, 2.0), (1e9, 3.0), (-5.0, 0.0)],
)
def test_dwell_scales_the_signal_bounded(value: float | None, factor: float) -> None:
    learner = learner_of()
    learn(learner, event("click", "ann", 4), event("view", "ann", 1, 1, value=value))
    row, other = learner.catalogue.ids.find("i1"), learner.catalogue.ids.find("i4")
    assert float(learner.popularity.count_HI[0, row]) == pytest.approx(0.5 * factor, rel=1e-5)
    pairs = learner.neighbours.pairs.of(other)[1][:, 0]
    assert float(pairs.sum()) == pytest.approx(0.5 * factor, rel=1e-5)


def test_an_impression_is_no_behaviour() -> None:
    learner = learner_of()
    learn(learner, event("impression", "ann", 1, position=0), event("impression", "ann", None, 1, items=("i2", "i3")))
    user = learner.users.row("ann")
    assert int(learner.users.count_U[user]) == 0
    assert float(learner.catalogue.count_I.sum()) == 0
    assert int(learner.neighbours.pairs.filled_I.sum()) == 0


def impressions_of(learner: Learner) -> Impressions:
    [found] = [scorer for scorer in learner.scorers if isinstance(scorer, Impressions)]
    return found


def scores_of(learner: Learner, user: str) -> dict[int, float]:
    [made] = recommend(learner, [learner.users.row(user)], START)
    return {int(row.item_id[1:]): row.score for row in made.items}


def test_what_is_shown_and_not_taken_falls_for_that_user_most() -> None:
    learner = learner_of()
    learn(learner, *[event("click", f"u{n}", n, n) for n in range(14)])
    passed = shown_to(learner, "ann")[0]
    before = {user: scores_of(learner, user)[passed] for user in ("ann", "bob")}
    learn(learner, *[event("impression", "ann", passed, 20 + 700 * n, position=0) for n in range(12)])
    fallen = {user: before[user] - scores_of(learner, user)[passed] for user in ("ann", "bob")}
    assert fallen["ann"] > fallen["bob"] + 0.1
    assert fallen["bob"] >= 0


def test_what_is_before_their_eyes_is_not_passed_over_yet() -> None:
    learner = learner_of()
    page = [event("impression", "ann", None, 0, items=("i1", "i2")), event("impression", "ann", 3, 60, position=2)]
    learn(learner, *page)
    assert fatigue(learner, "ann") == {}
    learn(learner, event("impression", "ann", 4, 2_000, position=0))
    assert fatigue(learner, "ann").keys() == {1, 2, 3}
    learn(learner, event("click", "ann", 2, 2_100))
    assert fatigue(learner, "ann").keys() == {1, 3}


def fatigue(learner: Learner, user: str) -> dict[int, float]:
    """How often the user passed over each item."""
    row_Q, items = torch.tensor([learner.users.row(user)]), len(learner.catalogue)
    history, consumed = learner.users.windows(row_Q, items)
    banned = Banned(torch.ones(items, dtype=torch.bool), consumed)
    answer = impressions_of(learner).ask(Questions(row_Q, history, banned))
    found = -answer.whole(1)[0]
    return {
        int(learner.catalogue.ids.name(row)[1:]): float(found[row]) for row in torch.nonzero(found).flatten().tolist()
    }


def test_a_click_takes_back_what_counted_against_the_item() -> None:
    learner = learner_of()
    learn(learner, *[event("impression", "ann", 1, n, position=2) for n in range(3)])
    found, user, row = impressions_of(learner), learner.users.row("ann"), learner.catalogue.ids.find("i1")
    low = float(found.rate_I()[row])
    assert int((found.ring_item_US[user] == row).sum()) == 3
    learn(learner, event("click", "ann", 1, 5))
    assert int((found.ring_item_US[user] == row).sum()) == 0
    assert float(found.click_I[row]) == pytest.approx(1.0)
    assert float(found.click_P[3]) == pytest.approx(1.0)
    assert float(found.rate_I()[row]) > low


def test_a_click_long_after_is_not_the_impressions() -> None:
    learner = learner_of()
    learn(learner, event("impression", "ann", 1, 0, position=0), event("click", "ann", 1, 100_000))
    assert float(impressions_of(learner).click_I.sum()) == 0


def test_position_and_taste_are_told_apart() -> None:
    """Simulated clicks: bad items always on top, good ones always below; the naive rate has it the wrong way round."""
    random = np.random.default_rng(5)
    examined, taken = {0: 0.9, 4: 0.2}, np.where(np.arange(30) < 15, 0.15, 0.4)
    learner = learner_of()
    found = impressions_of(learner)
    shown, clicked = np.zeros(30), np.zeros(30)
    for batch in range(750):
        events: list[Event] = []
        for n in range(32):
            item = int(random.integers(30))
            usual = 0 if item < 15 else 4
            place = usual if random.random() < 0.9 else 4 - usual
            events.append(event("impression", f"u{n}", item, 32 * batch + n, position=place))
            shown[item] += 1
            if random.random() < examined[place] * taken[item]:
                clicked[item] += 1
                events.append(event("click", f"u{n}", item, 32 * batch + n))
        found.observe(learner.admit(events, [e.timestamp for e in events], START).seen)
    rows = torch.tensor([learner.catalogue.ids.find(f"i{n}") for n in range(30)])
    rate, naive = found.rate_I()[rows].numpy(), clicked / shown
    assert naive[:15].mean() > naive[15:].mean()
    assert rate[15:].mean() == pytest.approx(rate[:15].mean() * 0.4 / 0.15, rel=0.15)
    assert float(found.examined_P[1] / found.examined_P[5]) == pytest.approx(4.5, rel=0.15)
