"""metarank: its item, user, ranking and interaction events.

A ranking is an impression of its items, and where it has a field `query` a
search as well; an interaction keeps its type. Who has no user id is known by
the session. Fields of items: `title` (or `name`), `description` (or `overview`),
`category`, `categories` and `genres`; of the others scalars are attributes and the strings
of lists are tags. Source: metarank's documentation of its event schema.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from consumers.importers.base import Made, Row, Unmapped, described, filled, identity, instant, needed, text

TITLES, DESCRIPTIONS = ("title", "name"), ("description", "overview")
CATEGORIES = ("category", "categories", "genres")
QUERY = "query"
_DIGITS = re.compile(r"(\d+)(?:\.0*)?")


class Metarank:
    """An importer."""

    def rows(self, row: Row) -> Iterable[Any]:
        """The row itself."""
        return (row,)

    def __call__(self, row: Row) -> Iterator[Made]:
        """One message a row, two of a ranking that answers a query."""
        kind = row.get("event")
        if kind in ("item", "metadata"):
            yield "items", _item(row)
        elif kind == "user":
            attributes, tags = described(_fields(row))
            attributes |= {"labels": ", ".join(tags)} if tags else {}
            yield "users", filled(user_id=needed(row, "user"), attributes=attributes)
        elif kind == "ranking":
            yield from _ranking(row)
        elif kind == "interaction":
            yield "events", _happened(row) | filled(
                event_type=needed(row, "type"), item_id=needed(row, "item"), event_id=text(row, "id"),
                request_id=text(row, "ranking", "impression"), context=described(_fields(row))[0],
            )  # fmt: skip
        else:
            raise Unmapped(f"event: must be item, user, ranking or interaction, found {str(kind)[:40]!r}")


def _ranking(row: Row) -> Iterator[Made]:
    given = row.get("items") or []
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise Unmapped("items: must be a list of objects with id")
    shown = [needed(item, "id") for item in given]
    happened, request, fields = _happened(row), needed(row, "id"), dict(_fields(row))
    query = fields.pop(QUERY, None)
    context = described(fields)[0]
    if isinstance(query, str) and query.strip():
        yield "events", happened | filled(
            event_type="search", text=query, event_id=identity(request, "search"), context=context
        )  # fmt: skip
    if shown:
        yield "events", happened | filled(
            event_type="impression", items=shown, event_id=request, request_id=request, context=context
        )  # fmt: skip


def _happened(row: Row) -> dict[str, Any]:
    """When, and by whom."""
    user, session = text(row, "user"), text(row, "session")
    if user is None and session is None:
        raise Unmapped("user: missing, and session as well")
    at = _when(row)
    if at is None:
        raise Unmapped("timestamp: missing")
    anonymous = session if user is None else None
    return filled(timestamp=at, user_id=user, anonymous_id=anonymous, session_id=session)


def _when(row: Row) -> int | None:
    """Ten digits are seconds and thirteen milliseconds, as metarank takes them."""
    given = row.get("timestamp")
    digits = _DIGITS.fullmatch(str(given).strip())
    if digits and len(digits[1]) not in (10, 13):
        raise Unmapped(f"timestamp: must be seconds or milliseconds since 1970, found {str(given)[:40]}")
    return instant(given, per_second=1 if digits and len(digits[1]) == 10 else 1000)


def _item(row: Row) -> dict[str, Any]:
    fields = dict(_fields(row))
    title, description = _first(fields, TITLES), _first(fields, DESCRIPTIONS)
    categories: list[str] = []
    for name in CATEGORIES:
        found = fields.get(name)
        if isinstance(found, str | list):
            categories += [each for each in ([found] if isinstance(found, str) else found) if isinstance(each, str)]
            del fields[name]
    attributes, tags = described(fields)
    return filled(
        item_id=needed(row, "item"), title=title, description=description, categories=categories, tags=tags,
        attributes=attributes, timestamp=_when(row),
    )  # fmt: skip


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of them that is text; it is taken out."""
    for name in names:
        if isinstance(fields.get(name), str):
            return str(fields.pop(name))
    return None


def _fields(row: Row) -> Row:
    given = row.get("fields") or []
    if not isinstance(given, list) or not all(map(_is_field, given)):
        raise Unmapped("fields: must be a list of objects with name and value")
    return {field["name"]: field.get("value") for field in given}


def _is_field(given: Any) -> bool:
    return isinstance(given, dict) and isinstance(given.get("name"), str)
