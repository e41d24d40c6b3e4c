"""Segment: track, identify and alias calls, as its archives, its HTTP API and files of warehouses hold them.

The events of its e-commerce specification (v2, and v1 by its names) that say
something about a product, each with the products that it carries; `page`,
`screen`, `group` and other events are left out. Product ids are `product_id`,
in v1 `id`, else `sku`. Traits become a user's attributes. RudderStack and Jitsu
write the same, RudderStack products in `properties.products` of any event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from consumers.importers.base import (
    LeftOut,
    Made,
    Row,
    Unmapped,
    described,
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
    "product viewed": "view",
    "product clicked": "click",
    "product added": "add_to_cart",
    "product added to wishlist": "like",
    "product shared": "like",
    "wishlist product added to cart": "add_to_cart",
    "product reviewed": "rating",
    "order completed": "purchase",
    "product list viewed": "impression",
    "product list filtered": "impression",
    "products searched": "search",
}
OLDER = {
    "viewed product": "product viewed",
    "clicked product": "product clicked",
    "added product": "product added",
    "completed order": "order completed",
    "viewed product category": "product list viewed",
}
"""v1's names, of which v2 says that they are aliases."""
NAMES = {
    "item_id": ("product_id", "productId", "id", "sku"), "title": ("name",), "description": ("description",),
    "categories": ("category",),
}  # fmt: skip
ATTRIBUTES = {"brand": ("brand",), "variant": ("variant",), "price": ("price",)}
VALUES = {"rating": "rating", "add_to_cart": "quantity", "purchase": "quantity"}
CALLS_LEFT_OUT = ("page", "screen", "group")
PERSONAL = {
    "id", "name", "firstname", "lastname", "username", "email", "phone", "avatar", "birthday", "website", "address"
}  # fmt: skip
"""Traits that the specification reserves for who somebody is: nobody's taste is learned from them."""
CALLS = (("event", "track"), ("previousId", "alias"), ("groupId", "group"), ("traits", "identify"))
"""What the HTTP API's bodies, which have no type, are told by."""


class Segment:
    """An importer."""

    def __init__(self) -> None:
        """Knows no product yet."""
        self._products = Products(NAMES, ATTRIBUTES)

    def rows(self, row: Row) -> Iterable[Any]:
        """The calls of a batch."""
        calls = several(row, "batch", "a batch without calls")
        return (row,) if calls is None else calls

    def __call__(self, row: Row) -> Iterator[Made]:
        """A purchase of several products makes as many events; a product that is new or changed an item."""
        call = text(row, "type", "action") or next((call for field, call in CALLS if field in row), None)
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
        called = text(row, "event") or ""
        name = called.lower().replace("_", " ")
        kind = TYPES.get(OLDER.get(name, name))
        if kind is None:
            raise LeftOut(f"track {called}")
        given = row.get("properties")
        properties: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
        if kind == "search":
            query = text(properties, "query")
            if query is None:
                raise Unmapped("properties.query: missing")
            yield "events", _happened(row) | filled(event_type=kind, text=query, event_id=_message(row))
            return
        products = self._carried(properties, kind)
        if not products and kind == "impression":
            raise LeftOut(f"track {called} without products")
        known = self._products.known(each for each in products if isinstance(each, Mapping))
        if not known:
            raise Unmapped("properties: no product_id")
        happened = _happened(row) | {"event_type": kind}
        yield from self._products.made(product for _, product in known)
        if kind == "impression":
            yield "events", happened | filled(items=[item_id for item_id, _ in known], event_id=_message(row))
        else:
            yield from _each(happened, known, properties, _message(row))
        self._products.all_known(products, "properties.products")

    def _carried(self, properties: Mapping[str, Any], kind: str) -> list[Any]:
        """The product that the properties are, or the products that they hold."""
        if kind not in ("purchase", "impression") and self._products.id_of(properties) is not None:
            return [properties]
        held = properties.get("products")
        return held if isinstance(held, list) else [held] if isinstance(held, Mapping) else []


def _each(
    happened: dict[str, Any], known: list[tuple[str, Mapping[str, Any]]], properties: Mapping[str, Any],
    message: str | None,
) -> Iterator[Made]:  # fmt: skip
    """An event for each product; an order's have an id each."""
    kind = happened["event_type"]
    value = VALUES.get(kind)
    said = text(properties, "review_body") if kind == "rating" else None
    single = kind != "purchase" and len(known) == 1
    for n, (item_id, product) in enumerate(known):
        yield "events", happened | filled(
            item_id=item_id, event_id=message if single or message is None else identity(message, n),
            position=position(product, "position") if kind != "purchase" else None,
            value=number(product, value) if value else None, text=said,
        )  # fmt: skip


def _message(row: Row) -> str | None:
    return text(row, "messageId", "message_id")


def _identify(row: Row) -> Iterator[Made]:
    user = text(row, "userId", "user_id")
    context = row.get("context")
    traits = row.get("traits") or (context.get("traits") if isinstance(context, Mapping) else None)
    if user is None:
        raise LeftOut("identify without userId")
    if isinstance(traits, Mapping) and traits:
        attributes, _ = described({name: trait for name, trait in traits.items() if not _names_them(name)})
        yield "users", filled(user_id=user, attributes=attributes)
    if before := text(row, "anonymousId", "anonymous_id"):
        yield "events", _merged(row, before)


def _names_them(trait: str) -> bool:
    return trait.lower().replace("_", "") in PERSONAL


def _merged(row: Row, before: str | None) -> dict[str, Any]:
    user = text(row, "userId", "user_id")
    if user is None or before is None:
        raise Unmapped("userId and previousId: both are needed")
    return filled(
        event_type="identify", user_id=user, anonymous_id=before, timestamp=_when(row), event_id=_message(row)
    )


def _happened(row: Row) -> dict[str, Any]:
    user, anonymous = text(row, "userId", "user_id"), text(row, "anonymousId", "anonymous_id")
    if user is None and anonymous is None:
        raise Unmapped("userId: missing, and anonymousId as well")
    context = row.get("context")
    session = text(context, "sessionId") if isinstance(context, Mapping) else None
    return filled(
        timestamp=_when(row), user_id=user, anonymous_id=anonymous if user is None else None,
        session_id=session or text(row, "session_id"),
    )  # fmt: skip


def _when(row: Row) -> int:
    at = instant(row.get("timestamp") or row.get("originalTimestamp") or row.get("receivedAt"))
    if at is None:
        raise Unmapped("timestamp: missing")
    return at
