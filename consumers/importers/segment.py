"""Segment: track, identify and alias calls, as its archives and warehouses' files hold them.

The events of its e-commerce specification (v2) that say something about a
product, each with the products that it carries; `page`, `screen`, `group` and
other events are left out. Product ids are `product_id`, else `sku`. Traits
become a user's attributes. RudderStack and Jitsu write the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from consumers.importers.base import LeftOut, Made, Row, Unmapped, described, filled, instant, number, text
from consumers.importers.products import Products

ONE = {
    "product viewed": "view",
    "product clicked": "click",
    "product added": "add_to_cart",
    "product added to wishlist": "like",
    "product shared": "like",
    "wishlist product added to cart": "add_to_cart",
    "product reviewed": "rating",
}
MANY = {"order completed": "purchase", "product list viewed": "impression", "product list filtered": "impression"}
SEARCH = "products searched"
NAMES = {
    "item_id": ("product_id", "productId", "sku", "id"), "title": ("name",), "description": ("description",),
    "categories": ("category",),
}  # fmt: skip
ATTRIBUTES = {"brand": ("brand",), "variant": ("variant",), "price": ("price",)}
VALUES = {"rating": "rating", "add_to_cart": "quantity"}
CALLS_LEFT_OUT = ("page", "screen", "group")


class Segment:
    """An importer."""

    def __init__(self) -> None:
        """Knows no product yet."""
        self._products = Products(NAMES, ATTRIBUTES)

    def __call__(self, row: Row) -> Iterator[Made]:
        """A purchase of several products makes as many events; a product that is new or changed an item."""
        call = text(row, "type")
        if call == "track":
            yield from self._track(row)
        elif call == "identify":
            yield from _identify(row)
        elif call == "alias":
            yield "events", _merged(row, text(row, "previousId", "previous_id"))
        elif call in CALLS_LEFT_OUT:
            raise LeftOut(call)
        else:
            raise Unmapped(f"type: must be a call such as track or identify, found {str(call)[:40]!r}")

    def _track(self, row: Row) -> Iterator[Made]:
        name = (text(row, "event") or "").lower()
        if name not in ONE and name not in MANY and name != SEARCH:
            raise LeftOut(f"track {text(row, 'event')}")
        given = row.get("properties")
        properties: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        happened, message = _happened(row), text(row, "messageId", "message_id")
        if name == SEARCH:
            query = text(properties, "query")
            if query is None:
                raise Unmapped("properties.query: missing")
            yield "events", happened | filled(event_type="search", text=query, event_id=message)
            return
        products = _products(properties) if name in MANY else [properties]
        ids = [found for product in products if (found := self._products.id_of(product))]
        if not ids:
            raise Unmapped("properties: no product_id")
        yield from self._products.made(products)
        if MANY.get(name) == "impression":
            yield "events", happened | filled(event_type="impression", items=ids, event_id=message)
        elif name in MANY:
            for n, product in enumerate(products):
                if item_id := self._products.id_of(product):
                    yield "events", happened | filled(
                        event_type=MANY[name], item_id=item_id, value=number(product, "quantity"),
                        event_id=f"{message}:{n}" if message else None,
                    )  # fmt: skip
        else:
            value, said = VALUES.get(ONE[name]), text(properties, "review_body") if ONE[name] == "rating" else None
            yield "events", happened | filled(
                event_type=ONE[name], item_id=ids[0], event_id=message, position=_position(properties),
                value=number(properties, value) if value else None, text=said,
            )  # fmt: skip


def _identify(row: Row) -> Iterator[Made]:
    user = text(row, "userId", "user_id")
    traits = row.get("traits")
    if user is None:
        raise LeftOut("identify without userId")
    if isinstance(traits, Mapping) and traits:
        attributes, _ = described(traits)
        yield "users", filled(user_id=user, attributes=attributes)
    if before := text(row, "anonymousId", "anonymous_id"):
        yield "events", _merged(row, before)


def _merged(row: Row, before: str | None) -> dict[str, Any]:
    user = text(row, "userId", "user_id")
    if user is None or before is None:
        raise Unmapped("userId and previousId: both are needed")
    return filled(
        event_type="identify", user_id=user, anonymous_id=before, timestamp=_when(row), event_id=text(row, "messageId")
    )


def _happened(row: Row) -> dict[str, Any]:
    user, anonymous = text(row, "userId", "user_id"), text(row, "anonymousId", "anonymous_id")
    if user is None and anonymous is None:
        raise Unmapped("userId: missing, and anonymousId as well")
    session = row.get("context")
    return filled(
        timestamp=_when(row), user_id=user, anonymous_id=anonymous if user is None else None,
        session_id=text(session, "sessionId") if isinstance(session, Mapping) else None,
    )  # fmt: skip


def _when(row: Row) -> int:
    at = instant(row.get("timestamp") or row.get("originalTimestamp") or row.get("receivedAt"))
    if at is None:
        raise Unmapped("timestamp: missing")
    return at


def _products(properties: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    given = properties.get("products")
    return [each for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []


def _position(properties: Mapping[str, Any]) -> int | None:
    at = number(properties, "position")
    return int(at) if at is not None and at >= 0 else None
