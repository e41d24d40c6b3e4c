"""gorse: users, items and feedback, as its dashboard exports them and its REST API takes them.

Rows are told apart by their fields (`FeedbackType`, `ItemId`, `UserId`). Feedback
keeps its type, but `read`, which gorse has for what was seen, is a view. An
item's `Comment` is its title; of `Labels` the scalars are attributes and the
strings of lists are tags. Source: gorse's documentation of data sources, and
`master/rest_test.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from consumers.importers.base import Made, Row, Unmapped, described, filled, instant, needed, number, text

TYPES = {"read": "view"}


class Gorse:
    """An importer; feedback without a time, as gorse allows it, happened `now` (ms)."""

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` as of the clock."""
        self._now = now

    def __call__(self, row: Row) -> Iterator[Made]:
        """One message a row."""
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
            value=value or None, event_id=f"gorse:{kind}:{user}:{item}"[:256], text=text(row, "Comment"),
        )  # fmt: skip


def _item(row: Row) -> dict[str, Any]:
    attributes, tags = described(_labels(row))
    return filled(
        item_id=needed(row, "ItemId"), title=text(row, "Comment"), categories=row.get("Categories"), tags=tags,
        attributes=attributes, timestamp=instant(row.get("Timestamp"), "Timestamp"),
        available=False if row.get("IsHidden") is True else None,
    )  # fmt: skip


def _user(row: Row) -> dict[str, Any]:
    attributes, tags = described(_labels(row))
    return filled(user_id=needed(row, "UserId"), attributes=attributes | ({"labels": ", ".join(tags)} if tags else {}))


def _labels(row: Row) -> Row:
    """gorse takes any JSON as labels; older versions have a list of strings."""
    labels = row.get("Labels")
    return labels if isinstance(labels, Mapping) else {"labels": labels}
