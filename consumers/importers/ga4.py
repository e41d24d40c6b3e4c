"""Google Analytics 4: e-commerce events, as its export to BigQuery and its Measurement Protocol have them.

Exported rows have `event_name`, `event_timestamp` in microseconds and
`event_params` as a list; a Measurement Protocol body has `client_id` and
`events` with `params`. Events without items, searches apart, are left out, and
what nobody has consented to, which Google exports without a user. Source:
Google's documentation of both.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from consumers.importers.base import (
    LeftOut,
    Made,
    Row,
    Unmapped,
    filled,
    identity,
    instant,
    number,
    position,
    several,
    text,
)
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
EARLIEST_MS = 10**12
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

    def rows(self, row: Row) -> Iterable[Any]:
        """The events of a Measurement Protocol body, as if they were exported ones."""
        events = several(row, "events", "a body without events")
        if events is None:
            return (row,)
        return [self._exported(row, event) if isinstance(event, Mapping) else event for event in events]

    def _exported(self, body: Row, event: Row) -> Row:
        given = event.get("params")
        params: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        at = event.get("timestamp_micros") or body.get("timestamp_micros") or self._now() * 1000
        return filled(
            event_name=event.get("name"), event_timestamp=at, user_id=body.get("user_id"),
            user_pseudo_id=text(body, "client_id", "app_instance_id"), params=params, items=params.get("items"),
        )  # fmt: skip

    def __call__(self, row: Row) -> Iterator[Made]:
        """An event for each item, but one for a list that was seen; a product that is new or changed makes an item."""
        name = text(row, "event_name")
        if name is None:
            raise Unmapped("event_name: missing")
        kind = TYPES.get(name)
        if kind is None:
            raise LeftOut(name)
        items, params = _items(row), row.get("params") or _params(row)
        term = text(params, "search_term") if kind == "search" else None
        if kind == "search" and name != "view_search_results":
            items = []
        if not items and term is None:
            raise LeftOut(f"{name} without {'search_term' if kind == 'search' else 'items'}")
        at = _when(row)
        session = text(params, "ga_session_id", "session_id")
        happened = _who(row, name) | filled(timestamp=at, session_id=session)
        yield from self._made(happened, kind, term, items, _identity(row, params, name))
        self._products.all_known(items, "items")

    def _made(
        self, happened: dict[str, Any], kind: str, term: str | None, items: list[Row], same: tuple[Any, ...]
    ) -> Iterator[Made]:
        if term is not None:
            yield "events", happened | filled(event_type=kind, text=term, event_id=identity(*same, term))
        known = self._products.known(items)
        yield from self._products.made(items)
        if kind in ("search", "impression"):
            ids = [item_id for item_id, _ in known]
            if ids:
                event_id = identity(*same, "items", zlib.crc32("\n".join(ids).encode("utf-8", "replace")))
                yield "events", happened | filled(event_type="impression", items=ids, event_id=event_id)
            return
        for n, (item_id, item) in enumerate(known):
            yield "events", happened | filled(
                event_type=kind, item_id=item_id, event_id=identity(*same, item_id, n),
                value=number(item, "quantity") if kind in ("purchase", "add_to_cart") else None,
                position=position(item, "index") if kind == "click" else None,
            )  # fmt: skip


def _when(row: Row) -> int:
    given = row.get("event_timestamp")
    at = instant(given, "event_timestamp", MICROSECONDS)
    if at is None:
        raise Unmapped("event_timestamp: missing")
    if at < EARLIEST_MS:
        raise Unmapped(f"event_timestamp: must be microseconds since 1970, found {str(given)[:40]}")
    return at


def _who(row: Row, name: str) -> dict[str, Any]:
    user, device = text(row, "user_id"), text(row, "user_pseudo_id")
    if user is None and device is None:
        privacy = row.get("privacy_info")
        if isinstance(privacy, Mapping) and privacy.get("analytics_storage") == "No":
            raise LeftOut(f"{name} without consent")
        raise Unmapped("user_id: missing, and user_pseudo_id (client_id, app_instance_id) as well")
    return filled(user_id=user, anonymous_id=device if user is None else None)


def _identity(row: Row, params: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """Google gives events no id, and those of one request the same microsecond: the items tell them apart, with what
    newer exports have of their order.
    """
    order = text(row, "batch_event_index", "batch_ordering_id") or text(params, "batch_ordering_id") or ""
    who = text(row, "user_id", "user_pseudo_id")
    return "ga4", who, row.get("event_timestamp"), name, order


def _params(row: Row) -> dict[str, Any]:
    """`event_params`: a list of key and value, of which one of four types is given."""
    params: dict[str, Any] = {}
    given = row.get("event_params")
    for each in given if isinstance(given, list) else ():
        value = each.get("value") if isinstance(each, Mapping) else None
        if isinstance(value, Mapping):
            params[str(each.get("key"))] = next((found for found in value.values() if found is not None), None)
    return params


def _items(row: Row) -> list[Row]:
    given = row.get("items")
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(item, Mapping) for item in given):
        raise Unmapped("items: must be a list of objects")
    return [{k: v for k, v in item.items() if v not in NOTHING} for item in given]
