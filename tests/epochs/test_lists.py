"""When lists are published, to whom, and what may stand in them: one story per promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

DAY = 86_400_000
HOUR = 3_600_000


@pytest.fixture
def shop(shop_of: Any, settings_of: Any) -> Any:
    """A shop of ten described items, similar and trending lists off."""

    def make(publishing: dict[str, Any] | None = None, items: int = 10, **learning: Any) -> Any:
        off = {"similar_size": 0, "trending_size": 0}
        made = shop_of(settings_of(off | (publishing or {}), learning))
        made.apply(*[made.item(f"i{n}", title=f"thing number {n}") for n in range(items)])
        return made

    return make


def test_a_user_gets_a_list_after_an_event_and_no_one_else(shop: Any) -> None:
    here = shop()
    published = here.apply(here.event("ann", "i1"))
    assert published.users == ["ann"]
    assert len(published.of("ann")) == 10
    assert here.apply(here.event("bob", "i2", event_id="e-77")).lists[0].trigger_event_id == "e-77"
    assert here.apply().lists == []


def test_a_purchase_leaves_the_list_and_a_click_does_not(shop: Any) -> None:
    here = shop()
    assert "i1" in here.apply(here.event("ann", "i1", "click")).of("ann")
    assert "i1" not in here.apply(here.event("ann", "i1", "purchase")).of("ann")
    assert "i1" not in here.apply(here.event("ann", "i2", "click")).of("ann")


def test_repeats_are_allowed_where_a_list_says_so(shop: Any) -> None:
    here = shop({"lists": {"home": {}, "again": {"allow_repeats": True}}})
    published = here.apply(here.event("ann", "i1", "purchase"))
    assert "i1" not in published.of("ann")
    assert "i1" in published.of("ann", "again")


def test_every_named_list_has_its_own_size_and_filter(shop: Any, shop_of: Any, settings_of: Any) -> None:
    lists = {
        "home": {"size": 3},
        "toys": {"include": {"categories": ["toy"]}},
        "cheap": {"exclude": {"attributes": {"price": [9, 99]}}, "exclude_items": ["i0"]},
    }
    here = shop_of(settings_of({"lists": lists, "similar_size": 0, "trending_size": 0}))
    kinds = [here.item(f"i{n}", categories=["toy" if n % 2 else "tool"], attributes={"price": n}) for n in range(10)]
    here.apply(*kinds, here.item("dear", attributes={"price": 99}), here.item("tagged", tags=["toy"]))
    published = here.apply(here.event("ann", "i1", "purchase"))
    assert len(published.of("ann")) == 3
    assert sorted(published.of("ann", "toys")) == ["i3", "i5", "i7", "i9", "tagged"]
    assert sorted(published.of("ann", "cheap")) == ["i2", "i3", "i4", "i5", "i6", "i7", "i8", "tagged"]


@pytest.mark.parametrize("value", [9, 9.0])
def test_a_whole_number_filters_alike_with_and_without_a_decimal_point(
    shop_of: Any, settings_of: Any, value: float
) -> None:
    lists = {"home": {"exclude": {"attributes": {"price": [value]}}}}
    here = shop_of(settings_of({"lists": lists}))
    here.apply(here.item("a", attributes={"price": 9}), here.item("b", attributes={"price": 9.0}), here.item("c"))
    assert here.apply(here.event("ann", "c")).of("ann") == ["c"]


@pytest.mark.parametrize("hide", ["withdraw", "unavailable", "expired by its update", "expired by the clock"])
def test_hiding_an_item_republishes_the_lists_that_show_it(shop: Any, hide: str) -> None:
    here = shop({"lists": {"home": {"size": 9}}})
    if hide == "expired by the clock":
        here.apply(here.item("i1", expires_at=here.now + HOUR))
    for user in ("ann", "bob"):
        assert "i1" in here.apply(here.event(user, "i0")).of(user)
    assert "i1" not in here.apply(here.event("cid", "i1", "purchase")).of("cid")
    here.now += 2 * HOUR
    match hide:
        case "withdraw":
            after = here.apply(here.withdraw("i1"))
        case "unavailable":
            after = here.apply(here.item("i1", available=False))
        case "expired by its update":
            here.apply(here.event("dot", "i2"))
            after = here.apply(here.item("i1", expires_at=here.now - HOUR))
        case _:
            after = here.apply(here.event("dot", "i2"))
            assert "i1" not in (after.of("dot") or [])
    refreshed = set(after.users) - {"dot"}
    assert {"ann", "bob"} <= refreshed <= {"ann", "bob", "dot"}
    assert "i1" not in after.of("ann") + after.of("bob")


def test_an_item_that_comes_back_is_shown_again(shop: Any) -> None:
    here = shop()
    here.apply(here.withdraw("i1"), here.item("i2", available=False))
    assert not {"i1", "i2"} & set(here.apply(here.event("ann", "i0")).of("ann"))
    here.apply(here.item("i1"), here.item("i2"))
    assert {"i1", "i2"} <= set(here.apply(here.event("ann", "i0")).of("ann"))


def test_an_undescribed_item_is_learned_from_and_not_shown_until_it_is_described(shop: Any) -> None:
    here = shop()
    assert "new" not in here.apply(*[here.event(f"u{n}", "new") for n in range(5)]).of("u1")
    here.apply(here.item("new"))
    assert here.apply(here.event("ann", "i0")).of("ann")[0] == "new"


def test_where_undescribed_items_are_shown_withdrawn_ones_are_not(shop: Any) -> None:
    here = shop({"undescribed": True})
    listed = here.apply(here.event("bob", "new"), here.event("cid", "other"), here.event("ann", "i0")).of("ann")
    assert {"new", "other", "i1"} <= set(listed)
    here.apply(here.withdraw("i1"), here.withdraw("new"), here.withdraw("never seen"))
    later = here.apply(here.event("ann", "i0"), here.event("bob", "never seen")).of("ann")
    assert "other" in later
    assert not {"i1", "new", "never seen"} & set(later)


def test_a_first_list_with_nothing_to_show_is_empty(shop_of: Any, settings_of: Any) -> None:
    here = shop_of(settings_of())
    assert here.apply(here.event("ann", None, "search", text="boots")).of("ann") == []
    assert here.apply(here.event("ann", "unknown")).of("ann") == []
    here.apply(here.item("only"))
    assert here.apply(here.event("ann", "unknown")).of("ann") == ["only"]
    assert here.apply(here.event("ann", "only", "purchase")).of("ann") == []


def test_reasons_name_scorers_and_add_up(shop: Any) -> None:
    here = shop()
    for _ in range(4):
        here.apply(*[here.event(f"u{n}", f"i{n % 4}") for n in range(8)])
    for made in here.apply(here.event("ann", "i1")).lists:
        for row in made.items:
            assert row.reasons[-1].name == "interaction"
            assert sum(reason.contribution for reason in row.reasons) == pytest.approx(row.score, abs=1e-4)


def test_diversity_changes_the_order_and_says_so_but_never_the_scores(shop_of: Any, settings_of: Any) -> None:
    lists = {
        "plain": {"size": 4, "diversity": {"method": "mmr", "strength": 0}},
        **{name: {"size": 4, "diversity": {"method": name, "strength": 0.8}} for name in ("mmr", "dpp")},
        "off": {"size": 4, "diversity": {"method": "none", "strength": 0.8}},
    }
    here = shop_of(settings_of({"lists": lists}))
    texts = {f"boot{n}": "leather boot" for n in range(6)} | {
        "tea": "green tea",
        "lamp": "desk lamp",
        "ink": "blue ink",
    }
    here.apply(*[here.item(name) for name in texts], *[here.vector(name, text) for name, text in texts.items()])
    published = here.apply(*[here.event("ann", f"boot{n}") for n in range(5)])
    made = {one.list: one for one in published.lists if one.user_id == "ann"}
    scores = {row.item_id: row.score for one in made.values() for row in one.items}
    assert made["off"].items == made["plain"].items
    assert sum(row.item_id.startswith("boot") for row in made["plain"].items) > 2
    for name in ("mmr", "dpp"):
        rows = made[name].items
        assert sum(row.item_id.startswith("boot") for row in rows) <= 2
        assert {row.item_id: row.score for row in rows}.items() <= scores.items()
        for row, by_score in zip(rows, made["plain"].items, strict=True):
            assert ("diversity" in [r.name for r in row.reasons]) == (row.item_id != by_score.item_id)
            assert sum(r.contribution for r in row.reasons) == pytest.approx(row.score, abs=1e-4)


def test_a_list_waits_for_min_interval_and_comes_without_another_event(shop: Any) -> None:
    here = shop({"min_interval_s": 60})
    assert here.apply(here.event("ann", "i1")).users == ["ann"]
    here.now += 10_000
    assert here.apply(here.event("ann", "i2"), here.event("bob", "i2")).users == ["bob"]
    assert here.processor.pending() == here.now + 50_000
    here.now += 49_999
    assert here.apply().users == []
    here.now += 1
    assert here.apply().users == ["ann"]
    assert here.processor.pending() is None
    assert here.apply().users == []


def test_a_withdrawal_does_not_wait_for_min_interval(shop: Any) -> None:
    here = shop({"min_interval_s": 60})
    assert "i3" in here.apply(here.event("ann", "i1")).of("ann")
    here.now += 1000
    assert "i3" not in here.apply(here.withdraw("i3")).of("ann")


def test_history_is_learned_without_lists_then_each_active_user_gets_one(shop: Any) -> None:
    here = shop({"max_age_s": 3600, "catch_up_lists": 2})
    old = here.now - 30 * DAY
    for n in range(3):
        past = [here.event(f"u{u}", f"i{u + n}", at=old + n * 1000 + u) for u in range(5)]
        assert here.apply(*past).lists == []
        # The embedder's vectors of the same backlog come in epochs of their own: the stream is no nearer to live.
        assert here.apply(here.vector(f"i{n}", f"thing {n}")).lists == []
        assert here.apply(here.item(f"late{n}")).lists == []
    got: list[str] = []
    while here.processor.pending() is not None:
        assert here.processor.pending() <= here.now
        part = here.apply().users
        assert 1 <= len(part) <= 2
        got += part
    assert sorted(got) == [f"u{u}" for u in range(5)]


def test_a_live_event_ends_the_backfill(shop: Any) -> None:
    here = shop({"max_age_s": 3600})
    here.apply(*[here.event(f"u{u}", "i1", at=here.now - 30 * DAY) for u in range(4)])
    assert sorted(here.apply(here.event("ann", "i2")).users) == ["ann", "u0", "u1", "u2", "u3"]
    assert here.processor.pending() is None


def test_idle_after_a_backfill_does_not_wait_for_someone_who_is_due_later(shop: Any) -> None:
    here = shop({"max_age_s": 3600, "min_interval_s": 600, "catch_up_lists": 1})
    here.apply(here.event("ann", "i1"))
    here.now += 1000
    here.apply(here.event("ann", "i2"))
    here.apply(*[here.event(f"u{u}", "i1", at=here.now - 2 * HOUR) for u in range(3)])
    assert here.processor.pending() <= here.now


def test_late_events_consume_and_do_not_publish(shop: Any) -> None:
    here = shop(allowed_lateness_s=3600)
    here.apply(here.event("ann", "i1"))
    late = here.apply(here.event("ann", "i2", "purchase", at=here.now - 2 * HOUR))
    assert late.applied.counts.late == 1
    assert late.lists == []
    assert "i2" not in here.apply(here.event("ann", "i3")).of("ann")


def test_a_merged_visitor_leaves_history_and_purchases_to_the_user(shop: Any) -> None:
    here = shop()
    seen = here.apply(here.event("ann", "i1"), *[_anonymous(here, "a1", item, "purchase") for item in ("i2", "i3")])
    assert sorted(seen.users) == ["a1", "ann"]
    merged = here.apply(_anonymous(here, "a1", None, "identify", user_id="ann"))
    assert merged.tombstones == ["home:a1"]
    assert merged.users == ["ann"]
    assert not {"i2", "i3"} & set(merged.of("ann"))
    assert here.apply().lists == []


def test_a_text_that_is_embedded_after_the_visitor_was_merged_is_the_users(shop: Any) -> None:
    here = shop()
    here.apply(*[here.vector(f"i{n}", f"thing number {n}") for n in range(10)])
    search = {"event_type": "search", "timestamp": here.now, "anonymous_id": "a1", "text": "boots", "event_id": "q1"}
    here.apply(here.record("events", "a1", json.dumps(search).encode()))
    here.apply(_anonymous(here, "a1", None, "identify", user_id="ann"))
    assert here.apply(here.text("a1", "q1", "boots")).users == ["ann"]


@pytest.mark.parametrize("order", ["text first", "vector first", "together"])
def test_a_text_joins_the_history_once_whichever_comes_first(shop: Any, order: str) -> None:
    here = shop()
    here.apply(*[here.vector(f"i{n}", f"thing number {n}") for n in range(10)])
    search, vector = here.event("ann", None, "search", text="number", event_id="q1"), here.text("ann", "q1", "number")
    match order:
        case "text first":
            assert here.apply(search).users == ["ann"]
            assert here.apply(vector).users == ["ann"]
        case "vector first":
            assert here.apply(vector).users == []
            assert here.apply(search).users == ["ann"]
        case _:
            assert here.apply(vector, search).users == ["ann"]
    users = here.processor.learner.users
    assert users.count_U[users.ids.find("ann")] == 1
    assert here.apply(vector).users == []


def test_a_text_of_before_the_erasure_joins_no_new_history(shop: Any) -> None:
    here = shop()
    here.apply(*[here.vector(f"i{n}", f"thing number {n}") for n in range(10)])
    here.apply(here.event("ann", None, "search", text="number", event_id="q1"), here.text("ann", "q2", "early"))
    here.now += 1000
    here.apply(here.erase("ann"))
    spelled = [name for name, t in here.processor.state().items() if b"ann" in t.detach().numpy().tobytes()]
    assert spelled == []
    here.now += 1000
    assert here.apply(here.event("ann", "i1")).users == ["ann"]
    assert here.apply(here.text("ann", "q1", "number", at=here.now - 2000)).users == []
    users = here.processor.learner.users
    assert users.count_U[users.ids.find("ann")] == 1


def test_more_new_items_than_the_arenas_hold_come_without_an_event(shop: Any) -> None:
    here = shop({"similar_size": 5, "trending_size": 5})
    assert "i3" in here.apply(here.event("ann", "i1")).of("ann")
    many = [here.item(f"new{n}") for n in range(300)]
    published = here.apply(*many, here.withdraw("i3"))
    assert published.users == ["ann"]
    assert "i3" not in published.of("ann")


def test_users_described_and_erased_before_they_did_anything(shop: Any) -> None:
    here = shop({"segments": ["country"]})
    here.apply(*[here.user(f"u{n}", country="CH") for n in range(200)])
    assert here.apply(here.erase("u199")).tombstones == ["home:u199"]
    assert here.apply(here.event("u150", "i1")).users == ["u150"]


def test_trending_lists_for_everyone_and_for_each_segment(shop: Any) -> None:
    here = shop({"segments": ["country"], "trending_size": 3, "trending_interval_s": 10})
    here.apply(here.event("early", "i9"))
    here.apply(*[here.user(f"u{n}", country=country) for n, country in enumerate(["CH", "DE", "FR"])])
    here.now += 20_000
    events = [here.event(f"u{n}", f"i{n}") for n in range(3)] + [here.event("ann", "i7", context={"country": "DE"})]
    published = here.apply(*events)
    lists = {made.list: [row.item_id for row in made.items] for made in published.lists if made.user_id == "*"}
    assert lists.keys() == {"trending", "trending/country=CH", "trending/country=DE", "trending/country=FR"}
    assert lists["trending/country=CH"] == ["i0"]
    assert sorted(lists["trending/country=DE"]) == ["i1", "i7"]
    here.now += 9_999
    assert all(made.user_id != "*" for made in here.apply(here.event("ann", "i1")).lists)
    here.now += 1
    again = here.apply(here.event("ann", "i1"), here.withdraw("i0"))
    assert {m.list: [r.item_id for r in m.items] for m in again.lists}["trending/country=CH"] == []


def test_item_to_item_lists_hold_what_was_liked_together(shop: Any) -> None:
    here = shop({"similar_size": 3, "similar_interval_s": 60})
    here.apply(*[here.event(f"u{n}", item) for n in range(6) for item in ("i1", "i2")])
    here.now += 60_000
    published = here.apply(*[here.event(f"v{n}", item) for n in range(3) for item in ("i1", "i2")], here.withdraw("i4"))
    of = {made.item_id: [row.item_id for row in made.items] for made in published.similar}
    assert of["i1"][0] == "i2"
    assert of["i2"][0] == "i1"
    assert all(item not in near and "i4" not in near for item, near in of.items())


def _anonymous(here: Any, visitor: str, item: str | None, event_type: str, **more: Any) -> Any:
    body = {"event_type": event_type, "timestamp": here.now, "anonymous_id": visitor, **more}
    return here.record("events", visitor, json.dumps(body | ({"item_id": item} if item else {})).encode())


@pytest.mark.parametrize("hide", ["withdraw", "unavailable"])
def test_hiding_an_item_refreshes_trending_and_similar_lists_before_their_interval(
    shop_of: Any, settings_of: Any, hide: str
) -> None:
    here = shop_of(settings_of({"trending_interval_s": 1e6, "similar_interval_s": 1e6}))
    here.apply(*[here.item(f"i{n}", title="a red thing") for n in range(4)])
    here.apply(*[here.vector(f"i{n}", "a red thing") for n in range(4)])
    shown = here.apply(*[here.event(user, f"i{n}") for user in ("ann", "bob") for n in range(3)])
    assert "i1" in shown.of("*", "trending")
    showing = {made.item_id for made in shown.similar if "i1" in [row.item_id for row in made.items]}
    assert showing
    hidden = here.apply(here.withdraw("i1") if hide == "withdraw" else here.item("i1", available=False))
    assert "i1" not in hidden.of("*", "trending")
    assert showing <= {made.item_id for made in hidden.similar}
    assert all("i1" not in [row.item_id for row in made.items] for made in hidden.similar)
    assert hidden.no_similar == (["i1"] if hide == "withdraw" else [])
    assert here.processor.pending() is None
    assert here.apply(here.event("ann", "i2")).of("*", "trending") is None


def test_a_list_made_from_an_old_history_is_not_born_expired(shop: Any) -> None:
    here = shop({"ttl_s": 3600})
    here.apply(here.event("ann", "i1", at=here.now - 400 * DAY))
    (late,) = here.apply().lists
    assert late.generated_at == here.now - 400 * DAY
    assert late.expires_at == here.now + HOUR
