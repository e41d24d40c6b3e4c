"""Who is due a list and when; segments and their counts; what a single poison event may not do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.learning.audience import AFTER_BACKFILL, Audience
from pipeline.learning.learner import Learner
from pipeline.learning.segments import Segments
from pipeline.learning.users import NEVER, Users
from pipeline.messages import Event, Item
from pipeline.settings import EventType, Learning, Metrics, Publishing, Settings
from pipeline.step import step

NOW = 1_700_000_000_000


def audience_of(users: int = 5, **publishing: Any) -> tuple[Audience, Users]:
    """That many users, nobody due."""
    arena = Users(8, 4, 0)
    for n in range(users):
        arena.row(f"u{n}")
    return Audience(arena, Publishing(**publishing)), arena


def touch(audience: Audience, *rows: int, ago: int = 0, clock: int = NOW) -> None:
    """Events of these users, `ago` ms."""
    audience.touch(torch.tensor(rows, dtype=torch.int64), torch.full((len(rows),), clock - ago), clock)


def test_the_touched_are_due_once() -> None:
    audience, _ = audience_of()
    touch(audience, 3, 1)
    assert audience.next_due() == NOW
    assert audience.due(NOW, True) == [1, 3]
    assert audience.due(NOW, True) == []
    assert audience.next_due() is None


def test_nobody_is_touched_by_nothing() -> None:
    audience, _ = audience_of()
    touch(audience)
    audience.withdrawn(torch.zeros(0, dtype=torch.int64), NOW)
    assert audience.next_due() is None


def test_between_lists_lies_the_interval() -> None:
    audience, _ = audience_of(min_interval_s=10)
    touch(audience, 0)
    assert audience.due(NOW, True) == [0]
    touch(audience, 0, 1, clock=NOW + 4_000)
    assert audience.due(NOW + 4_000, True) == [1]
    touch(audience, 0, clock=NOW + 9_000)
    assert audience.next_due() == NOW + 10_000
    assert audience.due(NOW + 9_999, True) == []
    assert audience.due(NOW + 10_000, True) == [0]


def test_old_events_wait_for_the_stream_to_be_live_and_then_come_in_portions() -> None:
    audience, _ = audience_of(max_age_s=60, catch_up_lists=2)
    touch(audience, 0, 1, 2, 3, ago=60_001)
    touch(audience, 4, ago=60_000)
    assert audience.next_due() == 0
    assert audience.due(NOW, False) == [4]
    assert audience.due(NOW, True) == [0, 1]
    touch(audience, 0, 3, ago=60_001)
    assert audience.due(NOW, True) == [0, 2]
    assert audience.due(NOW, True) == [3]
    assert audience.next_due() is None


def test_a_fresh_event_overtakes_an_old_one_but_not_the_other_way_round() -> None:
    audience, arena = audience_of(max_age_s=60)
    touch(audience, 0, ago=10**6)
    assert arena.due_U[0] == AFTER_BACKFILL
    touch(audience, 0)
    assert arena.due_U[0] == NOW
    touch(audience, 0, ago=10**6)
    assert arena.due_U[0] == NOW


def test_live_is_what_the_events_say_and_silence_confirms() -> None:
    audience, _ = audience_of(max_age_s=60)
    old, new = NOW - 10**6, NOW - 1
    told = [
        (None, False),
        (old, False),
        (None, False),
        (None, True),
        (None, False),
        (old, False),
        (None, False),
        (new, False),
    ]
    found = [audience.is_live(newest, NOW, idle=idle) for newest, idle in told]
    assert found == [False, False, False, True, True, False, False, True]


def test_whoever_is_shown_a_withdrawn_item_is_due_at_once() -> None:
    audience, arena = audience_of(min_interval_s=100)
    touch(audience, 0, 1, 2)
    audience.due(NOW, True)
    audience.shown(0, [7, 8])
    audience.shown(1, [8])
    audience.shown(2, [])
    audience.withdrawn(torch.tensor([7, 0]), NOW + 5)
    assert audience.due(NOW + 5, True) == [0]
    audience.shown(0, [8])
    audience.withdrawn(torch.tensor([7]), NOW + 6)
    assert arena.due_U.min() == NEVER


def test_item_lists_come_at_most_once_an_interval_the_most_liked_first() -> None:
    audience, _ = audience_of(similar_interval_s=10, similar_per_epoch=2)
    count_I = torch.tensor([0.0, 5, 1, 5, 9] + [0] * 95)
    audience.touch_items(torch.tensor([0, 1, 2, 3, 99]), 100)
    assert [audience.similar_due(NOW, count_I) for _ in range(4)] == [[1, 3], [2, 0], [99], []]
    audience.touch_items(torch.tensor([1]), 100)
    assert audience.similar_due(NOW + 9_999, count_I) == []
    assert audience.similar_due(NOW + 10_000, count_I) == [1]


def test_trending_lists_come_by_the_clock() -> None:
    audience, _ = audience_of(trending_interval_s=10)
    assert [audience.trending_due(NOW + ms) for ms in (0, 1, 9_999, 10_000, 10_001)] == [
        True,
        False,
        False,
        True,
        False,
    ]


def test_segments_count_what_their_users_like() -> None:
    learner = learner_of()
    segments = Segments(learner.users, ["country", "device"])
    assert list(segments.counts(5)) == []
    segments.describe(learner.users.row("ann"), {"country": "CH", "ignored": 1})
    events = [
        Event("like", 0, "ann", item_id="i1"),
        Event("like", 0, "bob", item_id="i2", context={"country": "DE", "device": 7}),
    ]
    done = step(learner, [*events, Event("search", 0, "bob", text="x")], [NOW] * 3, NOW)
    segments.observe([*events, Event("search", 0, "bob", text="x")], done.seen, len(learner.catalogue))
    found = {name: count_I.nonzero().flatten().tolist() for name, count_I in segments.counts(len(learner.catalogue))}
    rows = [learner.catalogue.ids.find(item) for item in ("i1", "i2")]
    assert found == {"country=CH": [rows[0]], "country=DE": [rows[1]], "device=7": [rows[1]]}
    assert all(len(count_I) == 500 for _, count_I in segments.counts(500))


def test_values_beyond_the_first_thousand_are_not_told_apart() -> None:
    users = Users(8, 4, 1)
    segments = Segments(users, ["country"])
    for n in range(1_100):
        segments.describe(users.row(f"u{n}"), {"country": n})
    assert len(segments.ids) == 1_000
    assert users.segment_UG[[999, 1_000, 1_099], 0].tolist() == [999, -1, -1]


def learner_of(segments: tuple[str, ...] = ("country", "device"), **event_types: EventType) -> Learner:
    """A tiny learner of ten items."""
    small = Learning(width=16, sequence=8, history=16, candidates=20, neighbours=16, interest_steps=1)
    small = small.model_copy(update={"event_types": small.event_types | event_types})
    settings = Settings(learning=small, publishing=Publishing(segments=segments), metrics=Metrics(peers=False))
    learner = Learner(settings, torch.device("cpu"))
    for n in range(10):
        learner.catalogue.describe(Item(f"i{n}"))
    return learner


POISON = [
    Event("rating", 0, "u", item_id="i1", value=1e308),
    Event("rating", 0, "u", item_id="i1", value=-1e308),
    Event("rating", 0, "u", item_id="i1", value=5e-324),
    Event("view", 0, "u", item_id="i1", value=1e308),
    Event("free", 0, "u", item_id="i1", value=3.0),
    Event("debt", 0, "u", item_id="i1", value=3.0),
    Event("never heard of", 0, "u", item_id="i1", value=2.0),
    Event("silent", 0, "u", item_id="i1"),
    Event("impression", 0, "u", items=("i1",) * 500),
    Event("search", 0, "u", text="words"),
    Event("x" * 256, 0, "ü" * 128, item_id="蓝" * 85),
]


@pytest.mark.parametrize("poison", POISON, ids=lambda e: f"{e.event_type[:14]} {e.value}")
@pytest.mark.parametrize("time", [-62_167_219_200_000, NOW, 253_402_300_799_999])
def test_no_event_that_decodes_spoils_the_learner(poison: Event, time: int) -> None:
    learner = learner_of(free=EventType(positive=0.0), debt=EventType(positive=-1.0), silent=EventType(signal=0.0))
    for _ in range(3):
        step(learner, [poison, Event("like", 0, "u", item_id="i2"), poison], [time, time, time], time)
    done = step(learner, [Event("like", 0, "u", item_id="i3"), Event("like", 0, "v", item_id="i3")], [time] * 2, time)
    assert len(done.ranks) == 2
    spoiled = [
        name
        for name, t in learner.state().items()
        if t.is_floating_point() and not name.endswith("loss") and not t.isfinite().all()
    ]
    assert spoiled == []


def test_a_step_of_nothing() -> None:
    learner = learner_of()
    done = step(learner, [], [], NOW)
    assert (len(done.ranks), len(done.seen.events)) == (0, 0)


@pytest.mark.parametrize("items", [0, 1])
def test_a_catalogue_of_none_or_one(items: int) -> None:
    learner = Learner(learner_of().settings, torch.device("cpu"))
    for n in range(items):
        learner.catalogue.describe(Item(f"i{n}"))
    for _ in range(3):
        done = step(
            learner, [Event("purchase", 0, "u", item_id="i0"), Event("like", 0, "v", item_id="i0")], [NOW] * 2, NOW
        )
        assert set(done.ranks.rank_Q["headrace"].tolist()) <= {0, 1}
