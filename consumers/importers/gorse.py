"""gorse: users, items and feedback, as its dashboard exports them and its REST API takes and gives them.

Rows are told apart by their fields (`FeedbackType`, `ItemId`, `UserId`), which the
CSV exports up to 0.4 and its database spell `feedback_type` and so on. Feedback
keeps its type, but `read`, which gorse has for what was seen, is a view. An
item's `Comment` is its title; of `Labels` the scalars are attributes and the
strings of lists are tags. Source: gorse's documentation of data sources, and
`master/rest_test.go` from 0.3 to 0.5.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from consumers.importers.base import (
    TRUE,
    Made,
    Row,
    Unmapped,
    described,
    filled,
    identity,
    instant,
    needed,
    number,
    text,
)

TYPES = {"read": "view"}
COLUMNS = {
    "feedback_type": "FeedbackType", "user_id": "UserId", "item_id": "ItemId", "time_stamp": "Timestamp",
    "is_hidden": "IsHidden", "categories": "Categories", "labels": "Labels", "description": "Comment",
    "comment": "Comment", "value": "Value",
}  # fmt: skip
ANSWERS = ("Users", "Items", "Feedback")


class Gorse:
    """An importer; feedback without a time, as gorse allows it, happened `now` (ms)."""

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` as of the clock."""
        self._now = now

    def rows(self, row: Row) -> Iterable[Any]:
        """Those of an answer of the REST API, which has a cursor beside them."""
        return next((row[name] for name in ANSWERS if isinstance(row.get(name), list)), (row,))

    def __call__(self, row: Row) -> Iterator[Made]:
        """One message a row."""
        row = {COLUMNS.get(name, name): value for name, value in row.items()}
        if "FeedbackType" in row:
            yield "events", self._feedback(row)
        elif "ItemId" in row:
            yield "items", _item(row)
        elif "UserId" in row:
            yield "users", _user(row)
        else:
            raise Unmapped("has none of FeedbackType, ItemId and UserId")

    def _feedback(self, row: Row) -> dict[str, Any]:
        kind, user, item = (needed(row, name) for name in ("FeedbackType", "UserId", "ItemId"))
        at = instant(row.get("Timestamp"), "Timestamp")
        value = number(row, "Value")
        return filled(
            event_type=TYPES.get(kind, kind), user_id=user, item_id=item, timestamp=self._now() if at is None else at,
            value=value or None, event_id=identity("gorse", kind, user, item), text=text(row, "Comment"),
        )  # fmt: skip


def _item(row: Row) -> dict[str, Any]:
    attributes, tags = described(_labels(row))
    return filled(
        item_id=needed(row, "ItemId"), title=text(row, "Comment"), categories=_written(row.get("Categories")),
        tags=tags, attributes=attributes, timestamp=instant(row.get("Timestamp"), "Timestamp"),
        available=False if str(row.get("IsHidden")).lower() in TRUE else None,
    )  # fmt: skip


def _user(row: Row) -> dict[str, Any]:
    attributes, tags = described(_labels(row))
    return filled(user_id=needed(row, "UserId"), attributes=attributes | ({"labels": ", ".join(tags)} if tags else {}))


def _labels(row: Row) -> Row:
    """gorse takes any JSON as labels; older versions have a list of strings."""
    labels = _written(row.get("Labels"))
    return labels if isinstance(labels, Mapping) else {"labels": labels}


def _written(given: Any) -> Any:
    """What a column of a CSV holds: JSON, or before 0.4.11 strings with | between them."""
    if not isinstance(given, str):
        return given
    try:
        found = json.loads(given)
    except ValueError:
        found = given
    return found if isinstance(found, dict | list) or found is None else [part for part in given.split("|") if part]
