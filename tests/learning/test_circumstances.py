"""What events say of their circumstances: hashed, scaled, remembered until said otherwise, forgotten on demand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.learning.batch import NO_ITEM, History, Questions, pack_code
from pipeline.learning.circumstances import FAR, TOLD, WORDS, Circumstances, minutes_east
from pipeline.learning.context import CLOCK, FIXED, KINDS, context
from pipeline.learning.learner import Learner
from pipeline.learning.lists import recommend
from pipeline.messages import Event, Item
from pipeline.settings import Learning, ListSettings, Metrics, Publishing, Settings
from pipeline.step import step

SUMMER = 1_750_000_000_000
SETTINGS = Settings(
    learning=Learning(width=8, sequence=4, history=8, candidates=20, neighbours=8, interest_steps=0, micro_batch=16),
    publishing=Publishing(lists={"home": ListSettings(size=5)}),
    metrics=Metrics(peers=False),
)


def told(*contexts: dict[str, Any], user: int = 0) -> Circumstances:
    """A user's contexts, one event after another."""
    known = Circumstances()
    for said in contexts:
        known.take(torch.tensor([user]), [said], [SUMMER])
    return known


def features(known: Circumstances, user: int = 0) -> torch.Tensor:
    return known.of(torch.tensor([user])).features()[0]


def test_a_word_is_the_same_feature_for_everybody_and_another_word_another() -> None:
    phone, same, desk = ({"device": name} for name in ("phone", "phone", "desk"))
    assert torch.equal(features(told(phone)), features(told(same, user=3), 3))
    assert not torch.equal(features(told(phone)), features(told(desk)))
    assert features(told(phone)).sum() == 1


def test_what_was_said_stays_until_something_else_is_said() -> None:
    known = told({"device": "phone"}, {})
    assert features(known).sum() == 1
    known.take(torch.tensor([0]), [{"device": "desk"}], [SUMMER])
    assert torch.equal(features(known), features(told({"device": "desk"})))


def test_within_a_micro_batch_an_event_sees_what_was_said_before_it_and_not_its_own() -> None:
    known = told({"device": "phone"})
    before = known.take(
        torch.tensor([0, 1, 0, 0]), [{"device": "desk"}, {"page": "a"}, {}, {"page": "b"}], [SUMMER] * 4
    )
    found = before.features()
    assert torch.equal(found[0], features(told({"device": "phone"})))
    assert found[1].sum() == 0
    assert torch.equal(found[2], features(told({"device": "desk"})))
    assert torch.equal(found[3], features(told({"device": "desk"})))
    assert torch.equal(features(known), features(told({"page": "b"})))


def test_numbers_are_scaled_by_what_was_seen_and_outliers_are_bounded() -> None:
    known = Circumstances()
    values = [10.0, 12.0, 11.0, 13.0, 9.0, 1e308]
    found = []
    for value in values:
        known.take(torch.tensor([0]), [{"basket": value}], [SUMMER])
        found.append(float(features(known)[WORDS:].abs().sum()))
    assert found[0] == 0
    assert all(part <= FAR + 0.01 for part in found)
    assert found[-1] > 1


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b", "timezone"]),
            st.none() | st.booleans() | st.text(max_size=5) | st.integers() | st.floats(allow_nan=False, width=64),
        ),
        max_size=20,
    )
)
def test_whatever_is_said_the_features_are_finite(said: list[dict[str, Any]]) -> None:
    assert features(told(*said)).isfinite().all()


def test_state_goes_on_as_if_nothing_had_happened() -> None:
    known = told({"device": "phone", "basket": 3, "timezone": "Asia/Tokyo"}, {"basket": 5.5})
    twin = Circumstances()
    twin.load({name: tensor.clone() for name, tensor in known.state().items()})
    for one in (known, twin):
        one.take(torch.tensor([0]), [{"basket": 7}], [SUMMER])
    for name, tensor in known.state().items():
        assert torch.equal(tensor, twin.state()[name]), name


@pytest.mark.parametrize(
    ("name", "time", "minutes"),
    [
        ("Europe/Berlin", SUMMER, 120),
        ("America/St_Johns", SUMMER, -150),
        ("-03:30", SUMMER, -210),
        ("+0530", SUMMER, 330),
        ("UTC", -(10**15), 0),
        ("Asia/Tokyo", 10**18, 540),
        ("../etc/passwd", SUMMER, None),
        ("", SUMMER, None),
    ],
)
def test_time_zones(name: str, time: int, minutes: int | None) -> None:
    assert minutes_east(name, time) == minutes


def at(second: int, kind: int = 1) -> History:
    """A history of one event."""
    return History(
        torch.tensor([[7, NO_ITEM]]).int(), torch.tensor([[pack_code(kind, 0, True, True), 0]]).short(),
        torch.tensor([[second, 0]]).int(), torch.tensor([1]).int(),
    )  # fmt: skip


def circumstances_of(history: History, known: Circumstances | None = None) -> torch.Tensor:
    """Clock, type and what was told, as the weights see them."""
    asked = None if known is None else known.of(torch.tensor([0]))
    questions = Questions(torch.tensor([0]), history, torch.zeros(1, 9, dtype=torch.bool), asked)
    return context(questions, torch.zeros(1, 2))[0, FIXED - CLOCK - KINDS - TOLD : FIXED]


def test_the_clock_is_that_of_the_place() -> None:
    midnight, noon, next_week = (circumstances_of(at(s))[:CLOCK] for s in (0, 43_200, 7 * 86_400))
    assert torch.allclose(midnight, next_week, atol=1e-5)
    assert torch.allclose(midnight[:2], -noon[:2], atol=1e-5)
    assert torch.allclose(midnight[2:], noon[2:], atol=1e-5)
    tokyo = circumstances_of(at(0), told({"timezone": "Asia/Tokyo"}))[:CLOCK]
    assert torch.allclose(tokyo, circumstances_of(at(9 * 3600))[:CLOCK], atol=1e-5)


def test_the_last_events_type_counts_and_nobodys_is_nothing() -> None:
    assert not torch.equal(circumstances_of(at(0, kind=1)), circumstances_of(at(0, kind=2)))
    one = at(0)
    gone = torch.full((1, 2), NO_ITEM).int()
    empty = History(gone, torch.zeros_like(one.code_QL), torch.zeros_like(one.time_QL), torch.zeros(1).int())
    assert circumstances_of(empty).abs().sum() == 0


def learner_of() -> Learner:
    learner = Learner(SETTINGS, torch.device("cpu"))
    for n in range(12):
        learner.catalogue.describe(Item(f"i{n}"))
    learner.resize()
    return learner


def clicks(count: int) -> list[Event]:
    """Who comes on the phone likes what is liked just now; who sits at a desk what has been liked longest."""
    events = []
    for n in range(count):
        device = "phone" if n % 2 else "desk"
        item = f"i{6 + n // 40 % 6}" if n % 2 else f"i{n // 2 % 3}"
        user = f"u{n // 2}-{device}"
        events.append(Event("search", SUMMER + 2 * n, user, context={"device": device}))
        events.append(Event("purchase", SUMMER + 2 * n + 1, user, item_id=item))
    return events


def test_the_weights_learn_what_a_device_means() -> None:
    learner = learner_of()
    events = clicks(1_200)
    for start in range(0, len(events), 16):
        part = events[start : start + 16]
        step(learner, part, [event.timestamp for event in part], SUMMER)
    now = SUMMER + 10_000
    visits = [Event("search", now, user, context={"device": user}) for user in ("desk", "phone")]
    step(learner, visits, [now, now], now)
    lists = {made.user: [item.item_id for item in made.items] for made in recommend(
        learner, [learner.users.row(name) for name in ("desk", "phone")], now)}  # fmt: skip
    desk, phone = (lists[learner.users.row(name)] for name in ("desk", "phone"))
    assert set(desk[:3]) == {"i0", "i1", "i2"}
    assert phone[0] not in {"i0", "i1", "i2"}


def test_the_erased_and_the_identified() -> None:
    learner = learner_of()
    visit = Event("click", SUMMER, anonymous_id="visit", item_id="i2", context={"device": "desk"})
    said = [Event("click", SUMMER, "ann", item_id="i1", context={"device": "phone"}), visit]
    step(learner, said, [SUMMER] * 2, SUMMER)
    row = learner.identify(visit.actor, "ann")
    assert torch.equal(features(learner.circumstances, row), features(told({"device": "desk"})))
    assert learner.erase("ann") == row
    assert features(learner.circumstances, row).sum() == 0
