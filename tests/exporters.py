"""A shop's history, made of the demo, and small writers of it as other systems export theirs.

Each writer follows its system's documentation, not our importers. What a format
has no place for its `said` takes away, or the whole message.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Native = list[tuple[str, Message]]

DEMO = Path(__file__).parents[1] / "config" / "demo"
TYPES = ("view", "click", "add_to_cart", "purchase", "like", "rating")


def shop(events: int = 300) -> Native:
    """Items, users and events in Headrace's own words: the demo's people and films, six kinds of events in turn.

    Every tenth event is a list that was shown, every fifteenth a search.
    """
    given = [json.loads(line) for line in _lines("events")[:events]]
    wanted = {event["item_id"] for event in given}
    items = [item for line in _lines("items") if (item := json.loads(line))["item_id"] in wanted]
    titles = {item["item_id"]: item["title"] for item in items}
    given = [event for event in given if event["item_id"] in titles]
    history: Native = [("items", item) for item in items]
    for user in sorted({event["user_id"] for event in given}):
        history.append(("users", {"user_id": user, "attributes": {"decade": int(user) % 7, "town": f"t{user[0]}"}}))
    for n, event in enumerate(given):
        one = event | {"event_type": TYPES[n % len(TYPES)]}
        if one["event_type"] not in ("rating", "add_to_cart", "purchase"):
            del one["value"]
        history.append(("events", one))
        also = {"user_id": event["user_id"], "timestamp": event["timestamp"] + 1000}
        if n % 10 == 0:
            shown = [other["item_id"] for other in given[n : n + 4]]
            history.append(("events", also | {"event_type": "impression", "event_id": f"list{n}", "items": shown}))
        if n % 15 == 0:
            asked = also | {"event_type": "search", "event_id": f"asked{n}", "text": titles[event["item_id"]]}
            history.append(("events", asked))
    return history


def _lines(name: str) -> list[str]:
    with gzip.open(DEMO / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return lines.readlines()


@dataclass(frozen=True)
class Exporter:
    """One system: what its files' rows are, and what of a message they can say."""

    name: str
    write: Callable[[Path, Native], list[Path]]
    said: Callable[[str, Message], Message | None]


def _without(message: Message, *fields: str) -> Message:
    return {field: value for field, value in message.items() if field not in fields}


def _json_lines(path: Path, rows: Iterable[Any]) -> list[Path]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return [path]


def _table(path: Path, columns: list[str], rows: Iterable[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _gorse_row(kind: str, message: Message) -> dict[str, Any] | None:
    if kind == "items":
        return {
            "ItemId": message["item_id"], "IsHidden": False, "Categories": message["categories"],
            "Timestamp": "0001-01-01T00:00:00Z", "Labels": message["attributes"], "Comment": message["title"],
        }  # fmt: skip
    if kind == "users":
        return {"UserId": message["user_id"], "Labels": message["attributes"], "Comment": ""}
    if message["event_type"] in ("impression", "search"):
        return None
    return {
        "FeedbackType": "read" if message["event_type"] == "view" else message["event_type"],
        "UserId": message["user_id"], "ItemId": message["item_id"], "Value": message.get("value", 0),
        "Timestamp": _iso(message["timestamp"]), "Updated": "0001-01-01T00:00:00Z", "Comment": "",
    }  # fmt: skip


def _gorse_said(kind: str, message: Message) -> Message | None:
    """No lists and no searches; no circumstances; an event is known by its type, user and item."""
    if message.get("event_type") in ("impression", "search"):
        return None
    return _without(message, "event_id", "context")


def _gorse(folder: Path, native: Native) -> list[Path]:
    return _json_lines(folder / "gorse.jsonl", filter(None, (_gorse_row(*each) for each in native)))


def _gorse_csv(folder: Path, native: Native) -> list[Path]:
    """Three files as the dashboard exported them up to 0.4: JSON in a column, | between categories, Go's times."""
    rows: dict[str, list[dict[str, Any]]] = {"users": [], "items": [], "events": []}
    for kind, message in native:
        if row := _gorse_row(kind, message):
            at = row.get("Timestamp", "").replace("T", " ").replace("Z", " +0000 UTC")
            rows[kind].append({
                "user_id": row.get("UserId"), "item_id": row.get("ItemId"), "is_hidden": "false", "time_stamp": at,
                "categories": "|".join(row.get("Categories", ())), "labels": json.dumps(row.get("Labels")),
                "description": row.get("Comment"), "feedback_type": row.get("FeedbackType"),
            })  # fmt: skip
    return [
        _table(folder / "items.csv", ["item_id", "is_hidden", "categories", "time_stamp", "labels", "description"],
               rows["items"]),
        _table(folder / "users.csv", ["user_id", "labels"], rows["users"]),
        _table(folder / "feedback.csv", ["feedback_type", "user_id", "item_id", "time_stamp"], rows["events"]),
    ]  # fmt: skip


def _gorse_csv_said(kind: str, message: Message) -> Message | None:
    """Nor values."""
    said = _gorse_said(kind, message)
    return said and _without(said, "value")


def _named(fields: Message) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in fields.items()]


def _metarank_row(kind: str, message: Message) -> dict[str, Any]:
    if kind == "items":
        fields = {"title": message["title"], "genres": message["categories"]} | message["attributes"]
        return {"event": "item", "id": message["item_id"], "timestamp": "1700000000000", "item": message["item_id"],
                "fields": _named(fields)}  # fmt: skip
    row = {"id": message.get("event_id", "0"), "timestamp": str(message.get("timestamp", 1700000000000)),
           "user": message["user_id"], "session": f"s{message['user_id']}"}  # fmt: skip
    if kind == "users":
        return row | {"event": "user", "fields": _named(message["attributes"])}
    if message["event_type"] in ("impression", "search"):
        fields = {"query": message["text"]} if "text" in message else {}
        shown = [{"id": item, "relevancy": 1.0} for item in message.get("items", ())]
        return row | {"event": "ranking", "fields": _named(fields), "items": shown}
    fields = message["context"] | ({"value": message["value"]} if "value" in message else {})
    typed = {"event": "interaction", "type": message["event_type"], "item": message["item_id"]}
    return row | typed | {"fields": _named(fields)}


def _metarank_said(kind: str, message: Message) -> Message | None:
    """A value is a field like any other; all have a session; items have times."""
    if kind == "items":
        return message | {"timestamp": 1700000000000}
    if kind == "users":
        return message
    said = _without(message, "value") | {"session_id": f"s{message['user_id']}"}
    if "value" in message:
        said["context"] = message["context"] | {"value": message["value"]}
    if message["event_type"] == "impression":
        said["request_id"] = message["event_id"]
    if message["event_type"] == "search":
        said["event_id"] = f"{message['event_id']}:search"
    return said


def _metarank(folder: Path, native: Native) -> list[Path]:
    return _json_lines(folder / "metarank.jsonl", (_metarank_row(*each) for each in native))


CALLS = {
    "view": "Product Viewed", "click": "Product Clicked", "add_to_cart": "Product Added", "purchase": "Order Completed",
    "like": "Product Added to Wishlist", "rating": "Product Reviewed", "impression": "Product List Viewed",
    "search": "Products Searched",
}  # fmt: skip


def _segment_rows(native: Native) -> Iterator[dict[str, Any]]:
    """Products lie in the events that are of them, so a list that shows the whole catalogue comes first."""
    known = {message["item_id"]: message for kind, message in native if kind == "items"}
    catalogue = [_product(item) for item in known.values()]
    yield _track({"user_id": "catalogue", "event_type": "impression", "timestamp": 0}, {"products": catalogue})
    for kind, message in native:
        if kind == "users":
            yield {"type": "identify", "userId": message["user_id"], "traits": message["attributes"]}
        elif kind == "events":
            event = message["event_type"]
            products = [{"product_id": item} for item in message.get("items", ())]
            one = {"product_id": message.get("item_id"), "quantity": message.get("value")}
            if event == "search":
                properties: dict[str, Any] = {"query": message["text"]}
            elif event in ("impression", "purchase"):
                properties = {"order_id": "o", "products": products or [one]}
            else:
                properties = one | {"rating": str(message.get("value"))}
            yield _track(message, properties)


def _product(item: Message) -> dict[str, Any]:
    return {"product_id": item["item_id"], "name": item["title"], "category": item["categories"][0], "price": "9.90"}


def _track(message: Message, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "track", "event": CALLS[message["event_type"]], "userId": message["user_id"], "anonymousId": "web",
        "messageId": message.get("event_id"), "timestamp": _iso(message["timestamp"]), "properties": properties,
        "context": {"library": {"name": "analytics.js"}}, "integrations": {},
    }  # fmt: skip


def _segment_said(kind: str, message: Message) -> Message | None:
    """One category; of attributes brand, variant and price; no circumstances; an order's events are numbered."""
    if kind == "items":
        return message | {"categories": message["categories"][:1], "attributes": {"price": 9.9}}
    if kind == "users":
        return message
    said = _without(message, "context")
    return said | {"event_id": f"{message['event_id']}:0"} if message["event_type"] == "purchase" else said


def _segment(folder: Path, native: Native) -> list[Path]:
    return _json_lines(folder / "segment.jsonl", _segment_rows(native))


EVENTS = {
    "view": "view_item", "click": "select_item", "add_to_cart": "add_to_cart", "purchase": "purchase",
    "like": "add_to_wishlist", "impression": "view_item_list", "search": "view_search_results",
}  # fmt: skip


def _ga4_rows(native: Native) -> Iterator[dict[str, Any]]:
    """BigQuery's rows as `bq` prints them, numbers as text; every third a Measurement Protocol body instead."""
    catalogue = [_ga4_item(message) for kind, message in native if kind == "items"]
    yield _exported({"user_id": "catalogue", "event_type": "impression", "timestamp": 1600000000000}, catalogue)
    events = [message for kind, message in native if kind == "events" and message["event_type"] in EVENTS]
    for n, message in enumerate(events):
        quantity = {"quantity": str(message["value"])} if "value" in message else {}
        items = [{"item_id": item} | quantity for item in message.get("items") or [message.get("item_id")] if item]
        yield _sent(message, items) if n % 3 == 0 else _exported(message, items)


def _ga4_item(item: Message) -> dict[str, Any]:
    said = {"item_id": item["item_id"], "item_name": item["title"], "item_brand": "(not set)", "price": "9.90"}
    names = ("item_category", "item_category2", "item_category3", "item_category4", "item_category5")
    return said | {name: "(not set)" for name in names} | dict(zip(names, item["categories"], strict=False))


def _exported(message: Message, items: list[dict[str, Any]]) -> dict[str, Any]:
    params = {
        "ga_session_id": {"string_value": None, "int_value": "7"},
        "search_term": {"string_value": message.get("text")},
    }
    return {
        "event_date": "20240203", "event_timestamp": str(message["timestamp"] * 1000), "user_id": message["user_id"],
        "event_name": EVENTS[message["event_type"]], "user_pseudo_id": "1.2", "items": items,
        "event_params": [{"key": key, "value": value} for key, value in params.items()],
    }  # fmt: skip


def _sent(message: Message, items: list[dict[str, Any]]) -> dict[str, Any]:
    params = {"session_id": 7, "engagement_time_msec": 1, "search_term": message.get("text"), "items": items}
    event = {"name": EVENTS[message["event_type"]], "params": params}
    return {"client_id": "1.2", "user_id": message["user_id"], "timestamp_micros": message["timestamp"] * 1000,
            "events": [event]}  # fmt: skip


def _ga4_said(kind: str, message: Message) -> Message | None:
    """No users and no ratings; five categories; no circumstances; events have no ids of their own."""
    if kind == "users" or message.get("event_type") == "rating":
        return None
    if kind == "items":
        return message | {"categories": message["categories"][:5], "attributes": {"price": 9.9}}
    return _without(message, "event_id", "context") | {"session_id": "7"}


def _ga4(folder: Path, native: Native) -> list[Path]:
    return _json_lines(folder / "ga4.jsonl", _ga4_rows(native))


MAPPING = """
kind: events
columns:
  {event_type: what, timestamp: at, user_id: who, item_id: film, event_id: line, value: n, items: films, text: asked}
values: {event_type: {view: view, click: click, cart: add_to_cart, paid: purchase, like: like, rating: rating,
  shown: impression, asked: search}}
split: {items: ";"}
attributes: [rating10]
per_second: 1
"""
WORDS = {"add_to_cart": "cart", "purchase": "paid", "impression": "shown", "search": "asked"}


def _table_files(folder: Path, native: Native) -> list[Path]:
    """A shop's own CSV of events, its words for them and times in seconds; `MAPPING` says what they mean."""
    rows = [
        {
            "what": WORDS.get(message["event_type"], message["event_type"]), "at": message["timestamp"] // 1000,
            "who": message["user_id"], "film": message.get("item_id"), "line": message["event_id"],
            "n": message.get("value"), "films": ";".join(message.get("items", ())), "asked": message.get("text"),
            "rating10": message.get("context", {}).get("rating10"),
        }
        for kind, message in native
        if kind == "events"
    ]  # fmt: skip
    return [_table(folder / "events.csv", list(rows[0]), rows)]


def _table_said(kind: str, message: Message) -> Message | None:
    """One kind a file; circumstances as text, in CSV."""
    if kind != "events":
        return None
    context = {name: str(value) for name, value in message.get("context", {}).items()}
    return message | ({"context": context} if context else {})


EXPORTERS = (
    Exporter("gorse", _gorse, _gorse_said),
    Exporter("gorse", _gorse_csv, _gorse_csv_said),
    Exporter("metarank", _metarank, _metarank_said),
    Exporter("segment", _segment, _segment_said),
    Exporter("ga4", _ga4, _ga4_said),
    Exporter("table", _table_files, _table_said),
)
