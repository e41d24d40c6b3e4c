"""Importers: rows as the systems' own documentation and tests have them become messages that the learner takes."""

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from consumers.importers.base import Unmapped
from consumers.importers.importing import FORMATS, Tally, imported, importer_of
from consumers.importers.rows import rows_of
from pipeline.messages import Undecodable

NOW = 1_700_000_000_000
EXPORTS = Path(__file__).parent / "exports"
"""Rows as each system's documentation and tests have them: their fields, spellings and kinds of times."""


def taken(name: str, path: Path, mapping: str | None = None) -> tuple[list[tuple[str, dict[str, Any]]], Tally]:
    """Every message, and what became of the rows."""
    tally = Tally()
    made = imported(rows_of(path), importer_of(name, lambda: NOW, mapping), tally)
    return [(kind, json.loads(value)) for kind, value in made], tally


def test_gorse() -> None:
    made, tally = taken("gorse", EXPORTS / "gorse.jsonl")
    assert (dict(tally.made), dict(tally.left_out)) == ({"users": 4, "items": 5, "events": 4}, {})
    assert tally.reasons == [
        (11, "holds what is no JSON object"), (12, "has none of FeedbackType, ItemId and UserId"),
    ]  # fmt: skip
    assert made[0] == ("users", {"user_id": "1", "attributes": {"gender": "male", "labels": "engineer, pilot"}})
    assert made[1] == ("items", {
        "item_id": "1", "title": "one", "categories": ["x"], "tags": ["comedy", "sci-fi"], "attributes": {"year": 2020},
        "timestamp": 1577840461000,
    })  # fmt: skip
    assert made[2] == ("items", {"item_id": "3", "title": '"three"', "timestamp": 1640998861000, "available": False})
    assert [m["timestamp"] for _, m in made[3:6]] == [NOW, 1645660800000, 1645747200000]
    assert [m["event_type"] for _, m in made[3:6]] == ["click", "star", "view"]
    assert made[4][1]["value"] == 0.5
    assert made[4][1]["item_id"] == "vuejs:vue"
    assert made[6] == ("users", {"user_id": "eve", "attributes": {"labels": "early, riser"}})
    assert made[7] == (
        "items",
        {"item_id": "tea", "title": "Sencha", "categories": ["drinks", "hot"], "tags": ["green"]},
    )
    assert made[8] == ("items", {"item_id": "pot", "attributes": {"shape.side": "left"}})
    assert [kind for kind, _ in made[9:]] == ["users", "users", "items", "events"]
    assert (made[12][1]["event_type"], made[12][1]["value"], made[12][1]["text"]) == ("buy", 2, "a gift")


def test_gorse_as_it_exported_csv() -> None:
    made, tally = taken("gorse", EXPORTS / "gorse-users.csv")
    assert made == [
        ("users", {"user_id": "7", "attributes": {"town": "Bergen", "labels": "rain, tea"}}),
        ("users", {"user_id": "8", "attributes": {"labels": "calm, late"}}), ("users", {"user_id": "9"}),
    ]  # fmt: skip
    made, tally = taken("gorse", EXPORTS / "gorse-items.csv")
    assert made[0] == ("items", {
        "item_id": "tea", "title": "Sencha, loose", "categories": ["drinks", "hot"], "tags": ["green"],
        "attributes": {"grams": 100}, "timestamp": 1706933106000,
    })  # fmt: skip
    assert [item.get("available") for _, item in made] == [None, False, None]
    assert made[2] == ("items", {"item_id": "pot", "title": "Pot", "categories": ["hot"], "tags": ["clay", "brown"]})
    assert [line for line, _ in tally.reasons] == [6], "a title of two lines lies before it"
    made, tally = taken("gorse", EXPORTS / "gorse-feedback.csv")
    assert [event["event_type"] for _, event in made] == ["view", "cart", "like"]
    assert [event["timestamp"] for _, event in made] == [1709287200000, NOW, 1709287200500]
    assert tally.unmapped == 0


def test_metarank(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress((EXPORTS / "metarank.jsonl").read_bytes()))
    made, tally = taken("metarank", path)
    assert dict(tally.made) == {"items": 3, "users": 1, "events": 8}
    assert [line for line, _ in tally.reasons] == [11, 12, 13]
    assert made[0] == ("items", {
        "item_id": "item1", "title": "Your favourite cat", "categories": ["pets"], "tags": ["white", "black"],
        "attributes": {"is_cute": True}, "timestamp": 1599391467000,
    })  # fmt: skip
    search, shown, bought, clicked = (message for _, message in made[2:6])
    assert (search["event_type"], search["text"], search["context"]) == ("search", "cat", {"source": "search"})
    assert (shown["event_type"], shown["items"], shown["request_id"]) == ("impression", ["item3", "item1"], "81f46c36")
    assert (bought["event_type"], bought["item_id"], bought["request_id"]) == ("purchase", "item1", shown["request_id"])
    assert (clicked["anonymous_id"], clicked["session_id"]) == ("session2", "session2")
    assert made[6] == ("items", {
        "item_id": "lamp", "title": "Desk lamp", "description": "Bends.", "categories": ["light", "desk"],
        "attributes": {"price": 25}, "timestamp": 1699999999000,
    })  # fmt: skip
    later = [message for kind, message in made[8:]]
    assert [event["timestamp"] - 1700000000000 for event in later] == [1000, 2000, 3000, 4000]
    assert [event["event_type"] for event in later] == ["impression", "click", "cart", "search"]
    assert later[1]["request_id"] == later[0]["request_id"] == "r2"


def test_segment() -> None:
    made, tally = taken("segment", EXPORTS / "segment.jsonl")
    assert dict(tally.made) == {"items": 4, "events": 17, "users": 3}
    assert dict(tally.left_out) == {
        "page": 1, "track Signed Up": 1, "track Song Played": 1, "group": 1, "track Order Refunded": 1,
        "track Viewed Product Category without products": 1, "identify without userId": 1, "a batch without calls": 1,
    }  # fmt: skip
    events = [message for kind, message in made if kind == "events"]
    assert [event["event_type"] for event in events[:9]] == [
        "view", "add_to_cart", "purchase", "purchase", "search", "impression", "rating", "identify", "identify",
    ]  # fmt: skip
    assert [event.get("item_id") for event in events[:4]] == ["622c", "622c", "622c", "577c"]
    assert (events[0]["position"], events[0]["anonymous_id"], events[0]["timestamp"]) == (3, "a1", 1767323045678)
    assert "anonymous_id" not in events[1]
    assert [event["value"] for event in events[2:4]] == [2, 1]
    assert [event["event_id"] for event in events[2:4]] == ["m3:0", "m3:1"]
    assert events[5]["items"] == ["622c", "577c"]
    assert (events[6]["value"], events[6]["text"]) == (5, "Love it")
    assert [event["anonymous_id"] for event in events[7:9]] == ["a1", "old"]
    users = [message for kind, message in made if kind == "users"]
    assert users[0] == {"user_id": "u1", "attributes": {"plan": "pro"}}
    assert users[1:] == [
        {"user_id": "u2", "attributes": {"age": 26}},
        {"user_id": "u3", "attributes": {"plan": "free"}},
    ]


def test_segment_as_others_write_it() -> None:
    """Batches, bodies without a type, v1's names, RudderStack's products and traits."""
    made, tally = taken("segment", EXPORTS / "segment.jsonl")
    events = [message for kind, message in made if kind == "events"][9:]
    assert [(event["event_type"], event["item_id"], event.get("value")) for event in events] == [
        ("like", "577c", None), ("click", "lamp", None), ("add_to_cart", "lamp", 3), ("add_to_cart", "lamp", 2),
        ("add_to_cart", "577c", 1), ("add_to_cart", "lamp", 1), ("like", "lamp", None), ("purchase", "lamp", None),
    ]  # fmt: skip
    assert [event.get("event_id") for event in events] == [
        "b3", None, None, "m20:0", "m20:1", "m21", "m22", "m23:0",
    ]  # fmt: skip
    assert (events[3]["session_id"], events[3]["position"], events[3]["anonymous_id"]) == ("1767398400000", 1, "a2")
    assert [(line, reason[:45]) for line, reason in tally.reasons] == [
        (11, "holds what is no JSON object"), (19, "properties.products: 1 of 2 without product_i"),
        (20, "properties: no product_id"), (24, "timestamp: must be an RFC 3339 time with an o"),
        (25, "timestamp: missing"), (26, "properties: no product_id"), (27, "properties.query: missing"),
        (29, "type: must be a call such as track or identif"),
    ]  # fmt: skip


def test_what_is_known_of_a_product_is_said_along() -> None:
    made, _ = taken("segment", EXPORTS / "segment.jsonl")
    lamps = [message for kind, message in made if kind == "items" and message["item_id"] == "lamp"]
    assert lamps == [
        {"item_id": "lamp", "title": "Lamp", "attributes": {"price": 25.5}},
        {"item_id": "lamp", "title": "Lamp", "categories": ["Lights"], "attributes": {"price": 25.5}},
    ]


def test_ga4() -> None:
    made, tally = taken("ga4", EXPORTS / "ga4.jsonl")
    assert dict(tally.made) == {"items": 4, "events": 17}
    assert dict(tally.left_out) == {
        "page_view": 1, "purchase without consent": 1, "session_start": 1, "purchase without items": 1,
        "select_promotion": 1, "a body without events": 1,
    }  # fmt: skip
    assert made[0] == ("items", {
        "item_id": "SKU_12345", "title": "Stan and Friends Tee", "categories": ["Apparel", "Adult"],
        "attributes": {"brand": "Google", "price": 10.01},
    })  # fmt: skip
    events = [message for kind, message in made if kind == "events"]
    assert [e["event_type"] for e in events[:6]] == [
        "view", "purchase", "purchase", "impression", "search", "add_to_cart",
    ]  # fmt: skip
    assert (events[0]["anonymous_id"], events[0]["session_id"], events[0]["timestamp"]) == (
        "100.200",
        "42",
        1612137600000,
    )
    assert (events[1]["user_id"], events[1]["value"]) == ("u1", 3)
    assert len({event["event_id"] for event in events}) == 17, "many are of the same microsecond"


def test_ga4_as_it_really_comes() -> None:
    """One microsecond for several events, numbers as text, nobody's events, searches that show items, app streams."""
    made, tally = taken("ga4", EXPORTS / "ga4.jsonl")
    events = [message for kind, message in made if kind == "events"][6:]
    assert [(event["event_type"], event.get("item_id"), event.get("value")) for event in events] == [
        ("add_to_cart", "lamp", 2), ("add_to_cart", "mug", None), ("click", "lamp", None), ("click", "lamp", None),
        ("purchase", "lamp", 1), ("purchase", "lamp", 1), ("search", None, None), ("impression", None, None),
        ("impression", None, None), ("like", "mug", None), ("search", None, None),
    ]  # fmt: skip
    assert [event["position"] for event in events[2:4]] == [0, 4]
    assert [event["items"] for event in events[7:9]] == [["lamp", "mug"], ["mug"]]
    assert (events[9]["timestamp"], events[9]["session_id"], events[9]["anonymous_id"]) == (
        1700000006000,
        "655",
        "app1",
    )
    assert events[10]["timestamp"] == NOW
    assert [(line, reason[:42]) for line, reason in tally.reasons] == [
        (12, "user_id: missing, and user_pseudo_id (clie"), (14, "items: 1 of 3 without item_id"),
        (16, "items: must be a list of objects"), (19, "event_timestamp: must be microseconds sinc"),
        (21, "event_name: missing"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["gorse", "metarank", "segment", "ga4"])
def test_the_same_export_twice_makes_the_same(name: str) -> None:
    path = EXPORTS / f"{name}.jsonl"
    assert taken(name, path)[0] == taken(name, path)[0]


MAPPING = """
kind: events
columns: {user_id: visitorid, item_id: itemid, timestamp: at, event_type: event, value: n}
values: {event_type: {view: view, addtocart: add_to_cart, transaction: purchase, noise: null}}
constants: {list: home}
attributes: [device]
per_second: 1
"""
TABLE = """\
at,visitorid,event,itemid,n,device
1433221332,257597,view,355908,,phone
1433224214,992329,addtocart,248676,2,
1433224215,992329,noise,248676,,
1433224216,992329,oops,248676,,
1433224217,992329
2015-06-02 05:50:14,111016,transaction,318965,1,tv
"""


def test_csv_by_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text(TABLE, "utf-8")
    made, tally = taken("table", path, MAPPING)
    assert [kind for kind, _ in made] == ["events"] * 3
    viewed, added, bought = ({**message, "list": message["list"] == "home"} for _, message in made)
    assert viewed == {
        "list": True, "user_id": "257597", "item_id": "355908", "timestamp": 1433221332000, "event_type": "view",
        "context": {"device": "phone"},
    }  # fmt: skip
    assert (added["event_type"], added["value"], "context" in added) == ("add_to_cart", 2, False)
    assert (bought["timestamp"], bought["event_type"], bought["value"]) == (1433224214000, "purchase", 1)
    assert dict(tally.left_out) == {"event noise": 1}
    assert tally.reasons == [
        (5, "event: 'oops' is none of view, addtocart, transaction, noise"), (6, "has 2 fields, and the header 6"),
    ]  # fmt: skip


def test_parquet_is_the_csv(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    path = tmp_path / "items.csv"
    path.write_text("id,name,genres,there\n1,Alien,horror|space,true\n2,Up,family,false\n", "utf-8")
    parquet.write_table(csv.read_csv(path), tmp_path / "items.parquet")
    columns = "{item_id: id, title: name, categories: genres, available: there}"
    mapping = f"{{kind: items, columns: {columns}, split: {{categories: '|'}}}}"
    made, _ = taken("table", tmp_path / "items.parquet", mapping)
    assert made == taken("table", path, mapping)[0]
    assert made[0] == ("items", {"item_id": "1", "title": "Alien", "categories": ["horror", "space"]})
    assert made[1][1]["available"] is False


def test_parquet_as_pandas_writes_it(tmp_path: Path) -> None:
    """Ids with gaps are floats there, and decimals, days and what is not a number have types of their own."""
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({
        "who": pyarrow.array([12345678.0, float("nan"), None], pyarrow.float64()),
        "what": pyarrow.array([Decimal(9714107479), Decimal("1.5"), Decimal(3)], pyarrow.decimal128(20, 1)),
        "day": [date(2024, 2, 3), date(2024, 2, 4), date(2024, 2, 5)],
        "price": [1.5, float("nan"), 2.0],
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "bought.parquet")
    mapping = (
        "{kind: events, columns: {user_id: who, item_id: what, timestamp: day}, constants: {event_type: purchase}, "
        "attributes: [price]}"
    )
    made, tally = taken("table", tmp_path / "bought.parquet", mapping)
    assert made == [("events", {
        "event_type": "purchase", "user_id": "12345678", "item_id": "9714107479", "timestamp": 1706918400000,
        "context": {"price": 1.5},
    })]  # fmt: skip
    assert [(line, reason.split(":")[0]) for line, reason in tally.reasons] == [(2, "user_id"), (3, "user_id")]


CAREFUL = """\
sku,left,stock,sold,rating
a,yes,2,3,4.5
b,no,1,-2,4
c,sold out,1,1,5
d,yes,1,1,"4,5"
e,yes,1,,
"""


def test_a_table_says_what_it_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "stock.csv"
    path.write_text(CAREFUL, "utf-8")
    made, tally = taken("table", path, "{kind: items, columns: {item_id: sku, available: left}}")
    assert [item.get("available") for _, item in made] == [None, False, None, None]
    assert tally.reasons == [(4, "left: 'sold out' is neither true nor false; say with values what it means")]
    meant = "{'yes': '1', 'no': '0', sold out: '0'}"
    told = f"{{kind: items, columns: {{item_id: sku, available: left}}, values: {{available: {meant}}}}}"
    assert [item.get("available") for _, item in taken("table", path, told)[0]] == [None, False, False, None, None]
    events = (
        "{kind: events, columns: {item_id: sku, value: VALUE}, at_least: {value: 1}, "
        "constants: {event_type: purchase, user_id: u, timestamp: 1700000000000}}"
    )
    made, tally = taken("table", path, events.replace("VALUE", "sold"))
    assert [event.get("value") for _, event in made] == [3, 1, 1, None]
    assert dict(tally.left_out) == {"sold below 1": 1}
    assert taken("table", path, events.replace("VALUE", "rating"))[1].reasons == [(5, "rating: '4,5' is no number")]


def test_seconds_are_not_taken_for_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "seen.csv"
    path.write_text("user,item,at\nu,i,1433221332\nu,i,1433221332.0\nu,i,1433221332000\n", "utf-8")
    mapping = "{kind: events, columns: {user_id: user, item_id: item, timestamp: at}, constants: {event_type: view}}"
    made, tally = taken("table", path, mapping)
    assert [event["timestamp"] for _, event in made] == [1433221332000]
    assert tally.reasons[0] == (2, "at: 1433221332 would be of 1970 in milliseconds; is it in seconds?")
    made, tally = taken("table", path, mapping[:-1] + ", per_second: 1}")
    assert [event["timestamp"] for _, event in made] == [1433221332000, 1433221332000]


def test_what_cannot_be_used_is_counted_by_reason(tmp_path: Path) -> None:
    path = tmp_path / "gaps.jsonl"
    path.write_text('{"UserId": ""}\n' * 100 + '{"ItemId": null}\n', "utf-8")
    _, tally = taken("gorse", path)
    assert tally.reasons == [(line, "UserId: missing") for line in (1, 2, 3)] + [(101, "ItemId: missing")]
    assert (dict(tally.alike), tally.unmapped) == ({"UserId: missing": 100, "ItemId: missing": 1}, 101)


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ("kind: users\ncolumns: {}\nat_least: {user_id: 1}", "at_least: 'user_id' is no number"),
        ("kind: users\ncolumns: {}\nsplit: {tags: x}", "split: users have no field 'tags'"),
        ("kind: things\ncolumns: {}", "kind: must be events, items or users"),
        ("kind: users\ncolumns: {name: n}", "users have no field 'name'"),
        ("kind: users", "missing required field `columns`"),
        ("kind: users\ncolumns: {}\ncolour: red", "unknown field `colour`"),
        ("kind: [", "expected"),
        ("kind: users\ncolumns: {user_id: no}", "yes, no, on and off need quotes"),
        ("kind: users\ncolumns: {}\nper_second: 0", "per_second: must be at least 1"),
    ],
)
def test_a_mapping_that_fits_nothing_is_named(mapping: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        importer_of("table", lambda: NOW, mapping)
    assert "\n" not in str(caught.value)


RUBBISH = [
    "[]", "{", '"x"', "7", "{}", "null", "[" * 5000, '{"FeedbackType": {}}', '{"events": [3]}', '{"event": "item"}',
    '{"event_name": "view_item"}', '{"event": "interaction", "fields": [3]}',
    '{"type": "track", "event": "Product Viewed"}',
    '{"type": "track", "event": "Product Viewed", "userId": "u", "timestamp": "soon", "properties": {"sku": 3}}',
    '{"event": "ranking", "id": "r", "user": "u", "timestamp": 1, "items": 7}',
    '{"event": "item", "item": "i", "timestamp": [], "fields": [{"name": "genres", "value": 3}]}',
    '{"event_name": "view_item", "event_timestamp": 1700000000000000, "event_params": 3, "items": [1]}',
    '{"Users": [[]]}', '{"batch": [null]}', '{"batch": {}}', '{"Labels": 3, "Categories": 3, "ItemId": [], "Users": 1}',
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "table"])
@pytest.mark.parametrize("line", RUBBISH, ids=range(len(RUBBISH)))
def test_rubbish_is_told_with_its_line(name: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "rubbish.jsonl"
    path.write_text(f"\n{line}\n", "utf-8")
    made, tally = taken(name, path)
    assert made == []
    assert all(at == 2 for at, _ in tally.reasons)
    assert line == "[]" or tally.unmapped + sum(tally.left_out.values()) == 1


def test_every_message_is_one_that_the_learner_takes(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"FeedbackType": "like", "UserId": "u" * 300, "ItemId": "i"}), "utf-8")
    _, tally = taken("gorse", path)
    assert tally.reasons == [(1, "user_id: must be at most 256 bytes of UTF-8, found 300")]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"a,b\n1,\xff\n")
    with pytest.raises(Undecodable, match=r"a\.csv: line"):
        list(rows_of(path))
    with pytest.raises(OSError, match="No such file"):
        list(rows_of(tmp_path / "none.jsonl"))


def test_a_pretty_printed_body_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "body.json"
    path.write_text(json.dumps([{"UserId": "1"}, {"UserId": "2"}, 3], indent=2), "utf-8")
    made, tally = taken("gorse", path)
    assert [message["user_id"] for _, message in made] == ["1", "2"]
    assert tally.reasons == [(3, "is not a JSON object")]
    assert isinstance(list(rows_of(path))[2][1], Unmapped)
