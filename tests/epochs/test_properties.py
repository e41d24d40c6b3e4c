"""Whatever comes, in whatever order: lists keep their promises, the erased stay erased, each event has one outcome.

A plain-Python book keeper takes in the same records by the rules of the contract, and the
processor's lists, counts and histories are held against it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.epochs.intake import CLOCK_SKEW_MS
from pipeline.messages import Counts, Record

USERS = ["ann", "bob", "cid", "v1", "v2"]
ITEMS = [f"i{n}" for n in range(9)]
CONSUMING = {"purchase", "rating", "dislike"}
TYPES = [*sorted(CONSUMING), "click", "view", "impression", "like", "unheard-of"]
LATENESS = 3_600_000
LISTS: dict[str, Any] = {
    "home": {"size": 4},
    "again": {"size": 20, "allow_repeats": True, "exclude": {"categories": ["c0"]}, "exclude_items": ["i1"]},
    "toys": {"size": 3, "include": {"categories": ["c1"], "attributes": {"price": [7]}}},
}
MANY = hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

user = st.sampled_from(USERS)
item = st.sampled_from(ITEMS)
ago = st.sampled_from([0, 0, 1_500, 20_000])
event = st.fixed_dictionaries(
    {
        "user": user,
        "item": item,
        "type": st.sampled_from(TYPES),
        "value": st.sampled_from([None, 1.0, 5.0, 1e308, -3.0]),
        "at": st.sampled_from([0, 0, 0, 10_000, 3 * LATENESS, -86_400_000]),
        "id": st.one_of(st.none(), st.sampled_from(["e1", "e2", "e3"])),
        "appended": ago,
    }
)
described = st.fixed_dictionaries(
    {
        "item": item,
        "category": st.sampled_from(["c0", "c1", "c2"]),
        "price": st.sampled_from([7, 8]),
        "available": st.sampled_from([True, True, True, False]),
        "expires": st.sampled_from([None, None, -1_000, 400_000, 900_000]),
    }
)
action = st.one_of(
    st.tuples(st.just("event"), event),
    st.tuples(st.just("event"), event),
    st.tuples(st.just("item"), described),
    st.tuples(st.just("withdraw"), item),
    st.tuples(st.just("vector"), item),
    st.tuples(st.just("erase"), user, ago),
    st.tuples(st.just("identify"), st.sampled_from(["v1", "v2"]), st.sampled_from(["ann", "bob", "v2"]), ago),
    st.tuples(st.just("search"), user, st.sampled_from(["q1", "q2"]), ago),
    st.tuples(st.just("text"), user, st.sampled_from(["q1", "q2"])),
    st.tuples(st.just("junk"), user),
)
epoch = st.tuples(st.sampled_from([1_000, 60_000, 400_000]), st.lists(action, max_size=12))


@dataclass
class Book:
    """What the contract says must come of the records: a model, slow and plain."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    cutoff: dict[str, int] = field(default_factory=dict)
    consumed: dict[str, set[str]] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    reached: dict[int, int] = field(default_factory=dict)
    watermark: int = -(2**62)
    searchers: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    tombstones: list[str] = field(default_factory=list)

    def take(self, records: list[Record]) -> Counts:
        """An epoch."""
        self.touched, self.tombstones, counts = set(), [], dict.fromkeys(Counts.__struct_fields__, 0)
        records = sorted(records, key=lambda r: (r.topic, r.partition, r.offset))
        for record in records:
            if ".items." in record.topic:
                self._item(record)
            elif ".users." in record.topic:
                self._erase((record.key or b"").decode(), record.timestamp)
        events = [record for record in records if record.topic.endswith(".events.v1")]
        counts["consumed"] = len(events)
        timed = [(self._event(record), record) for record in events]
        counts["dead_lettered"] = sum(not body for body, _ in timed)
        admitted: dict[str, list[tuple[int, dict[str, Any], Record]]] = {"trained": [], "late": []}
        order = [(min(b["timestamp"], r.timestamp + CLOCK_SKEW_MS), b, r) for b, r in timed if b]
        for time, body, record in sorted(order, key=lambda one: (one[0], one[2].partition, one[2].offset)):
            outcome = self._outcome(time, body, record)
            counts[outcome] += 1
            admitted.setdefault(outcome, []).append((time, body, record))
        for _, body, _ in admitted["late"]:
            self._exists(self._actor(body))
            self._consume(self._actor(body), body)
        for time, body, record in admitted["trained"]:
            self._learn(body)
            self.reached[record.partition] = max(time, self.reached.get(record.partition, time))
            self.watermark = max(self.watermark, time)
        return Counts(**counts)

    def hidden(self, name: str) -> bool:
        """Whether an item may not be shown to anyone."""
        known = self.items.get(name)
        return known is None or not known["available"] or (known["expires_at"] or 2**62) <= self.watermark

    def eligible(self, who: str, name: str) -> set[str]:
        """What one list of a user may hold."""
        open_to_all = {i for i in self.items if not self.hidden(i)}
        match name:
            case "home":
                return open_to_all - self.consumed.get(who, set())
            case "again":
                return {i for i in open_to_all if self.items[i]["categories"] != ["c0"] and i != "i1"}
            case _:
                fitting = {i for i in open_to_all if self.items[i]["categories"] == ["c1"]}
                fitting |= {i for i in open_to_all if self.items[i]["attributes"]["price"] == 7}
                return fitting - self.consumed.get(who, set())

    def _item(self, record: Record) -> None:
        name = (record.key or b"").decode()
        self.items.pop(name, None)
        if record.value is not None:
            self.items[name] = {"available": True, "expires_at": None} | json.loads(record.value)

    def _erase(self, who: str, appended: int) -> None:
        self.cutoff[who] = max(appended, self.cutoff.get(who, appended))
        self._leave(who)

    def _leave(self, who: str) -> None:
        self.consumed.pop(who, None)
        self.entries.pop(who, None)
        self.searchers.discard(who)
        self.tombstones += [f"{name}:{who}" for name in LISTS]

    @staticmethod
    def _event(record: Record) -> dict[str, Any]:
        body: Any = json.loads(record.value or b"null")
        return body if isinstance(body, dict) else {}

    @staticmethod
    def _actor(body: dict[str, Any]) -> str:
        return str(body.get("user_id") or body["anonymous_id"])

    def _outcome(self, time: int, body: dict[str, Any], record: Record) -> str:
        actor = self._actor(body)
        if any(record.timestamp <= self.cutoff.get(who, -1) for who in (actor, body.get("anonymous_id"))):
            return "erased"
        if (event_id := body.get("event_id")) is not None:
            if (actor, event_id) in self.seen:
                return "duplicate"
            self.seen.add((actor, event_id))
        if time < self.reached.get(record.partition, -(2**62)) - LATENESS:
            return "late"
        return "trained"

    def _exists(self, who: str) -> None:
        self.entries.setdefault(who, 0)
        self.consumed.setdefault(who, set())

    def _consume(self, who: str, body: dict[str, Any]) -> None:
        if body["event_type"] in CONSUMING:
            self.consumed[who].add(body["item_id"])

    def _learn(self, body: dict[str, Any]) -> None:
        who = self._actor(body)
        if body["event_type"] == "identify":
            visitor = body["anonymous_id"]
            if visitor == who:
                return
            self._exists(who)
            if visitor in self.entries:
                self.entries[who] += self.entries[visitor]
                self.consumed[who] |= self.consumed[visitor]
                searched = visitor in self.searchers
                self._leave(visitor)
                self.searchers |= {who} if searched else set()
                self.touched.discard(visitor)
        else:
            self._exists(who)
            self._consume(who, body)
            self.entries[who] += "item_id" in body and body["event_type"] != "impression"
            self.searchers |= {who} if "text" in body else set()
        self.touched.add(who)


def records_of(shop: Any, actions: list[Any]) -> list[Record]:
    """The records of an epoch's actions."""
    made = []
    for kind, *what in actions:
        match kind:
            case "event":
                e = what[0]
                more = {"value": e["value"], "event_id": e["id"], "appended": shop.now - e["appended"]}
                made.append(shop.event(e["user"], e["item"], e["type"], at=shop.now - e["at"], **more))
            case "item":
                d = what[0]
                expires = None if d["expires"] is None else shop.now + d["expires"]
                more = {"categories": [d["category"]], "attributes": {"price": d["price"]}}
                made.append(shop.item(d["item"], available=d["available"], expires_at=expires, **more))
            case "withdraw":
                made.append(shop.withdraw(what[0]))
            case "vector":
                made.append(shop.vector(what[0], f"text of {what[0]}"))
            case "erase":
                made.append(shop.erase(what[0], shop.now - what[1]))
            case "identify":
                body = {"event_type": "identify", "timestamp": shop.now, "anonymous_id": what[0], "user_id": what[1]}
                made.append(shop.record("events", what[1], json.dumps(body).encode(), shop.now - what[2]))
            case "search":
                more = {"text": "some words", "event_id": what[1], "appended": shop.now - what[2]}
                made.append(shop.event(what[0], None, "search", **more))
            case "text":
                made.append(shop.text(what[0], what[1], "some words"))
            case _:
                made.append(shop.record("events", what[0], b"[]"))
    return made


def check_lists(published: Any, book: Book) -> None:
    """Each list holds what it may, all that fits, once; reasons add up."""
    assert len({(made.list, made.user_id) for made in published.lists}) == len(published.lists)
    for made in published.lists:
        rows = [row.item_id for row in made.items]
        may = book.eligible(made.user_id, made.list)
        assert set(rows) <= may, (made.list, made.user_id)
        assert len(rows) == len(set(rows)) == min(len(may), LISTS[made.list]["size"])
        for row in made.items:
            assert sum(reason.contribution for reason in row.reasons) == pytest.approx(row.score, abs=1e-4)
        assert made.generated_at == book.watermark


def check_users(shop: Any, book: Book) -> None:
    """Who is known, how long their history is and what they consumed: erased users are blank, or begun anew."""
    users, catalogue = shop.processor.learner.users, shop.processor.learner.catalogue
    for who in USERS:
        row = users.ids.find(who)
        assert (row >= 0) == (who in book.entries), who
        if row >= 0:
            texts = 10 if who in book.searchers else 0
            assert book.entries[who] <= int(users.count_U[row]) <= book.entries[who] + texts
            _, eaten = users.windows(torch.tensor([row]), len(catalogue))
            mask_QI = eaten.whole(len(catalogue))
            consumed = {catalogue.ids.name(i) for i in torch.nonzero(mask_QI[0]).flatten().tolist()}
            assert consumed == book.consumed[who]


@pytest.mark.parametrize("late", ["the vector", "nothing"])
def test_what_a_visitor_wrote_before_they_were_known_is_the_users_and_what_comes_after_is_not(
    shop_of: Any, settings_of: Any, late: str
) -> None:
    shop = shop_of(settings_of({"lists": LISTS, "similar_size": 0, "trending_size": 0}))
    shop.apply(*[shop.item(i, categories=["c1"], attributes={"price": 7}) for i in ITEMS], shop.vector("i0", "a text"))
    wrote = [shop.event("v1", None, "search", text="mine", event_id="q1", at=shop.now + 1)]
    known = shop.event("ann", None, "identify", anonymous_id="v1", at=shop.now + 2)
    again = [shop.event("v1", None, "search", text="somebody else's", event_id="q2", at=shop.now + 3)]
    vectors = [shop.text("v1", "q1", "mine", at=shop.now), shop.text("v1", "q2", "somebody else's", at=shop.now)]
    parts = [[*wrote, known, *again], vectors] if late == "the vector" else [[*wrote, known, *again, *vectors]]
    for part in parts:
        shop.apply(*part)
    users = shop.processor.learner.users
    assert [int(users.count_U[users.ids.find(who)]) for who in ("ann", "v1")] == [1, 1]


@MANY
@given(epochs=st.lists(epoch, min_size=2, max_size=7), cut=st.integers(0, 6))
def test_every_list_keeps_its_promises(
    shop_of: Any, settings_of: Any, differing: Any, epochs: list[Any], cut: int
) -> None:
    publishing = {"lists": LISTS, "similar_size": 0, "trending_size": 0}
    shop = shop_of(settings_of(publishing, {"allowed_lateness_s": LATENESS // 1000}))
    book, topic = Book(), dict[str, list[str]]()
    plain = {"category": "c1", "price": 8, "available": True, "expires": None}
    opening = [("item", {"item": i} | plain) for i in ITEMS[:5]]
    told: list[tuple[list[Record], int]] = []
    state: dict[str, torch.Tensor] = {}
    for number, (passed, actions) in enumerate([(0, opening), *epochs]):
        shop.now += passed
        records = records_of(shop, actions)
        told.append((records, shop.now))
        published, expected = shop.apply(*records), book.take(records)
        counts = published.applied.counts
        assert (counts.conserved, counts) == (True, _with_lists(expected, counts.lists))
        check_lists(published, book)
        check_users(shop, book)
        assert set(published.tombstones) == set(book.tombstones)
        stale = {key for key, rows in topic.items() if any(map(book.hidden, rows))} - set(book.tombstones)
        due = book.touched | {key.split(":")[1] for key in stale}
        assert due <= set(published.users) <= due | book.searchers
        _publish(topic, published)
        assert {key.split(":")[1] for key in topic} <= book.entries.keys()
        assert not [key for key, rows in topic.items() if any(map(book.hidden, rows))]
        if number == min(cut, len(epochs)):
            state = {name: tensor.detach().clone() for name, tensor in shop.processor.state().items()}
    _replay_from(shop, state, told, min(cut, len(epochs)) + 1, differing)


def _publish(topic: dict[str, list[str]], published: Any) -> None:
    """What a compacted topic then holds; an erased or merged user's tombstones come before a list of the same epoch."""
    for output in published.applied.outputs:
        if output.topic.endswith(".recommendations.v1"):
            key = output.key.decode()
            if output.value is None:
                topic.pop(key, None)
            else:
                topic[key] = [row["item_id"] for row in json.loads(output.value)["items"]]


def _with_lists(counts: Counts, lists: int) -> Counts:
    return Counts(**{name: getattr(counts, name) for name in Counts.__struct_fields__} | {"lists": lists})


def _replay_from(shop: Any, state: Any, told: list[Any], first: int, differing: Any) -> None:
    """From a snapshot, maybe taken before an erasure, the same state comes of the same records."""
    restored = shop.fresh()
    restored.load(state)
    for number, (records, clock) in enumerate(told[first:], first + 1):
        restored.apply(number, records[::-1], clock)
    assert differing(restored.state(), shop.processor.state()) == []


@MANY
@given(
    old=st.lists(event, min_size=1, max_size=10),
    with_text=st.booleans(),
    after=st.lists(st.tuples(event, st.booleans()), max_size=8),
)
def test_an_erased_user_never_returns_from_what_was_appended_before(
    shop_of: Any, settings_of: Any, old: list[Any], with_text: bool, after: list[Any]
) -> None:
    lists = {"lists": LISTS, "similar_size": 0, "trending_size": 0}
    shop = shop_of(settings_of(lists, {"allowed_lateness_s": 10**9, "dedupe_window_s": 10**9}))
    shop.apply(*[shop.item(i, categories=["c1"], attributes={"price": 7}) for i in ITEMS], shop.vector("i0", "a text"))
    history = records_of(shop, [("event", e | {"user": "ann", "id": f"x{n}"}) for n, e in enumerate(old)])
    if with_text:
        history.append(shop.event("ann", None, "search", text="some words", event_id="q1"))
    shop.apply(*history)
    before = {name: tensor.detach().clone() for name, tensor in shop.processor.state().items()}
    written = shop.now
    shop.now += 100_000
    erased = shop.apply(shop.erase("ann"))
    assert sorted(erased.tombstones) == sorted(f"{name}:ann" for name in LISTS)
    shop.now += 100_000
    again = shop.apply(*history, shop.text("ann", "q1", "some words", at=written))
    assert again.lists == []
    assert again.applied.counts.erased == len(history)
    users = shop.processor.learner.users
    assert users.ids.find("ann") == -1
    assert _traces(before, "ann") - {"users.ids.bytes"} == ({"joiner.events"} if with_text else set())
    assert _traces(shop.processor.state(), "ann") == set()
    _start_anew(shop, after)


def _traces(state: dict[str, torch.Tensor], who: str) -> set[str]:
    """Names of byte tensors that spell an id."""
    spelled = {name: t.numpy().tobytes() for name, t in state.items() if t.dtype == torch.uint8}
    return {name for name, raw in spelled.items() if who.encode() in raw}


def _start_anew(shop: Any, after: list[Any]) -> None:
    """Of what comes then only that appended after the cutoff counts."""
    cutoff = shop.now - 100_000
    fresh: list[str] = []
    done: list[str] = []
    records = []
    for n, (e, is_old) in enumerate(after):
        appended = {"appended": shop.now - cutoff + n if is_old else 0}
        records += records_of(shop, [("event", e | {"user": "ann", "id": f"y{n}", "at": -n} | appended)])
        fresh += [] if is_old else [e["item"]]
        done += [] if is_old or e["type"] == "impression" else [e["item"]]
    published = shop.apply(*records)
    users, catalogue = shop.processor.learner.users, shop.processor.learner.catalogue
    row = users.ids.find("ann")
    assert (row >= 0) == bool(fresh)
    assert published.users == (["ann"] if fresh else [])
    if fresh:
        history, _ = users.windows(torch.tensor([row]), 0)
        assert [catalogue.ids.name(i) for i in history.item_QL[0, : len(done)].tolist()] == done[::-1]
        assert int(users.count_U[row]) == len(done)
