"""Importers: rows as the systems' own documentation and tests have them become messages that the learner takes."""

import gzip
import json
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
    assert (dict(tally.made), tally.unmapped, dict(tally.left_out)) == ({"users": 1, "items": 2, "events": 3}, 0, {})
    assert made[0] == ("users", {"user_id": "1", "attributes": {"gender": "male", "labels": "engineer, pilot"}})
    assert made[1] == ("items", {
        "item_id": "1", "title": "one", "categories": ["x"], "tags": ["comedy", "sci-fi"], "attributes": {"year": 2020},
        "timestamp": 1577840461000,
    })  # fmt: skip
    assert made[2] == ("items", {"item_id": "3", "title": '"three"', "timestamp": 1640998861000, "available": False})
    assert [m["timestamp"] for _, m in made[3:]] == [NOW, 1645660800000, 1645747200000]
    assert [m["event_type"] for _, m in made[3:]] == ["click", "star", "view"]
    assert made[4][1]["value"] == 0.5
    assert made[4][1]["item_id"] == "vuejs:vue"


def test_metarank(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl.gz"
    path.write_bytes(gzip.compress((EXPORTS / "metarank.jsonl").read_bytes()))
    made, tally = taken("metarank", path)
    assert (dict(tally.made), tally.unmapped) == ({"items": 1, "users": 1, "events": 4}, 0)
    assert made[0] == ("items", {
        "item_id": "item1", "title": "Your favourite cat", "categories": ["pets"], "tags": ["white", "black"],
        "attributes": {"is_cute": True}, "timestamp": 1599391467000,
    })  # fmt: skip
    search, shown, bought, clicked = (message for _, message in made[2:])
    assert (search["event_type"], search["text"], search["context"]) == ("search", "cat", {"source": "search"})
    assert (shown["event_type"], shown["items"], shown["request_id"]) == ("impression", ["item3", "item1"], "81f46c36")
    assert (bought["event_type"], bought["item_id"], bought["request_id"]) == ("purchase", "item1", shown["request_id"])
    assert (clicked["anonymous_id"], clicked["session_id"]) == ("session2", "session2")


def test_segment() -> None:
    made, tally = taken("segment", EXPORTS / "segment.jsonl")
    assert dict(tally.made) == {"items": 2, "events": 9, "users": 1}
    assert (dict(tally.left_out), tally.unmapped) == ({"page": 1, "track Signed Up": 1}, 0)
    events = [message for kind, message in made if kind == "events"]
    assert [event["event_type"] for event in events] == [
        "view", "add_to_cart", "purchase", "purchase", "search", "impression", "rating", "identify", "identify",
    ]  # fmt: skip
    assert [event.get("item_id") for event in events[:4]] == ["622c", "622c", "622c", "577c"]
    assert (events[0]["position"], events[0]["anonymous_id"], events[0]["timestamp"]) == (3, "a1", 1767323045678)
    assert "anonymous_id" not in events[1]
    assert [event["value"] for event in events[2:4]] == [2, 1]
    assert [event["event_id"] for event in events[2:4]] == ["m3:0", "m3:1"]
    assert events[5]["items"] == ["622c", "577c"]
    assert (events[6]["value"], events[6]["text"]) == (5, "Love it")
    assert [event["anonymous_id"] for event in events[7:]] == ["a1", "old"]
    users = [message for kind, message in made if kind == "users"]
    assert users == [{"user_id": "u1", "attributes": {"plan": "pro", "address.city": "Oslo"}}]


def test_ga4() -> None:
    made, tally = taken("ga4", EXPORTS / "ga4.jsonl")
    assert dict(tally.made) == {"items": 2, "events": 6}
    assert (dict(tally.left_out), tally.unmapped) == ({"page_view": 1}, 0)
    assert made[0] == ("items", {
        "item_id": "SKU_12345", "title": "Stan and Friends Tee", "categories": ["Apparel", "Adult"],
        "attributes": {"brand": "Google", "price": "10.01"},
    })  # fmt: skip
    events = [message for kind, message in made if kind == "events"]
    assert [e["event_type"] for e in events] == ["view", "purchase", "purchase", "impression", "search", "add_to_cart"]
    assert (events[0]["anonymous_id"], events[0]["session_id"], events[0]["timestamp"]) == (
        "100.200",
        "42",
        1612137600000,
    )
    assert (events[1]["user_id"], events[1]["value"]) == ("u1", 3)
    assert len({event["event_id"] for event in events}) == 6


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
        (5, "event: 'oops' is none of view, addtocart, transaction, noise"), (6, "has not the 6 fields of the header"),
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


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ("kind: things\ncolumns: {}", "kind: must be events, items or users"),
        ("kind: users\ncolumns: {name: n}", "users have no field 'name'"),
        ("kind: users", "missing required field `columns`"),
        ("kind: users\ncolumns: {}\ncolour: red", "unknown field `colour`"),
        ("kind: [", "expected"),
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
