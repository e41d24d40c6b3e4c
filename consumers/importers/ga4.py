"""Google Analytics 4: e-commerce events, as its export to BigQuery and its Measurement Protocol have them.

Exported rows have `event_name`, `event_timestamp` in microseconds and
`event_params` as a list; a Measurement Protocol body has `client_id` and
`events` with `params`. Events without items, searches apart, are left out.
Source: Google's documentation of both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from consumers.importers.base import LeftOut, Made, Row, Unmapped, filled, instant, number, text
from consumers.importers.products import Products

TYPES = {
    "view_item": "view",
    "select_item": "click",
    "add_to_cart": "add_to_cart",
    "add_to_wishlist": "like",
    "purchase": "purchase",
    "ecommerce_purchase": "purchase",
    "view_item_list": "impression",
    "view_search_results": "search",
    "search": "search",
}
MICROSECONDS = 1_000_000
NAMES = {
    "item_id": ("item_id", "id"), "title": ("item_name", "name"), "description": (),
    "categories": ("item_category", "item_category2", "item_category3", "item_category4", "item_category5", "category"),
}  # fmt: skip
ATTRIBUTES = {"brand": ("item_brand", "brand"), "variant": ("item_variant", "variant"), "price": ("price",)}
NOTHING = ("(not set)", "(other)")


class Ga4:
    """An importer; a Measurement Protocol body without a time is of `now` (ms), as Google takes it."""

    def __init__(self, now: Callable[[], int]) -> None:
        """`now` as of the clock."""
        self._now = now
        self._products = Products(NAMES, ATTRIBUTES)

    def __call__(self, row: Row) -> Iterator[Made]:
        """An event for each item, but one for a list that was seen; a product that is new or changed makes an item."""
        if isinstance(row.get("events"), list):
            yield from self._body(row)
            return
        name = text(row, "event_name")
        if name is None:
            raise Unmapped("event_name: missing")
        at = instant(row.get("event_timestamp"), "event_timestamp", MICROSECONDS)
        if at is None:
            raise Unmapped("event_timestamp: missing")
        yield from self._event(name, at, _who(row, "user_pseudo_id"), _params(row), _items(row))

    def _body(self, row: Row) -> Iterator[Made]:
        at = instant(row.get("timestamp_micros"), "timestamp_micros", MICROSECONDS)
        who, left_out = _who(row, "client_id", "app_instance_id"), ""
        made = False
        for event in row["events"]:
            params = event.get("params") if isinstance(event, Mapping) else None
            if not isinstance(params, Mapping):
                continue
            name = text(event, "name") or ""
            try:
                when = self._now() if at is None else at
                for each in self._event(name, when, who, params, _items(params)):
                    made = True
                    yield each
            except LeftOut as sort:
                left_out = str(sort)
        if not made:
            raise LeftOut(left_out or "a body without events")

    def _event(
        self, name: str, at: int, who: dict[str, Any], params: Mapping[str, Any], items: list[Row]
    ) -> Iterator[Made]:
        kind = TYPES.get(name)
        if kind is None:
            raise LeftOut(name)
        session = text(params, "ga_session_id", "session_id")
        happened = who | filled(timestamp=at, event_type=kind, session_id=session)
        # Google gives events no id: the same in the same microsecond is the same.
        identity = f"ga4:{who.get('user_id') or who.get('anonymous_id')}:{at}:{name}"
        if kind == "search":
            query = text(params, "search_term")
            if query is None:
                raise LeftOut(f"{name} without search_term")
            yield "events", happened | filled(text=query, event_id=_short(identity))
            return
        ids = [found for item in items if (found := self._products.id_of(item))]
        if not ids:
            raise LeftOut(f"{name} without items")
        yield from self._products.made(items)
        if kind == "impression":
            yield "events", happened | filled(items=ids, event_id=_short(identity))
            return
        for n, item in enumerate(items):
            if item_id := self._products.id_of(item):
                value = number(item, "quantity") if kind in ("purchase", "add_to_cart") else None
                yield "events", happened | filled(item_id=item_id, value=value, event_id=_short(f"{identity}:{n}"))


def _short(identity: str) -> str | None:
    """An id that a message can have, or none."""
    return identity if len(identity.encode("utf-8", "replace")) <= 256 else None


def _who(row: Row, *anonymous: str) -> dict[str, Any]:
    user, device = text(row, "user_id"), text(row, *anonymous)
    if user is None and device is None:
        raise Unmapped(f"user_id: missing, and {anonymous[0]} as well")
    return filled(user_id=user, anonymous_id=device if user is None else None)


def _params(row: Row) -> dict[str, Any]:
    """`event_params`: a list of key and value, of which one of four types is given."""
    params: dict[str, Any] = {}
    for each in row.get("event_params") or ():
        value = each.get("value") if isinstance(each, Mapping) else None
        if isinstance(value, Mapping):
            params[str(each.get("key"))] = next((found for found in value.values() if found is not None), None)
    return params


def _items(row: Row) -> list[Row]:
    given = row.get("items")
    if not isinstance(given, list):
        return []
    return [{k: v for k, v in item.items() if v not in NOTHING} for item in given if isinstance(item, Mapping)]
