"""Products as shops' events carry them along: an item each, said again only when there is more or other to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from consumers.importers.base import Made, Unmapped, filled, number, text

MOST = 500_000
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(dict[str, Any]).decode


class Products:
    """Remembers what it has said, of at most half a million products.

    An item's message replaces the one before it, and most events carry less of a
    product than its own page does: what is known of it is said along.
    """

    def __init__(self, names: Mapping[str, tuple[str, ...]], attributes: Mapping[str, tuple[str, ...]]) -> None:
        """Under which fields `item_id`, `title`, `description` and `categories` lie, and which are attributes."""
        self._names = names
        self._attributes = attributes
        self._said: dict[str, bytes] = {}

    def id_of(self, product: Mapping[str, Any]) -> str | None:
        """The product's id, None if it has none."""
        return text(product, *self._names["item_id"])

    def known(self, products: Iterable[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
        """Those that have an id, with it."""
        return [(item_id, product) for product in products if (item_id := self.id_of(product)) is not None]

    def all_known(self, products: list[Any], field: str) -> None:
        """Raises Unmapped where some have no id."""
        without = len(products) - len(self.known(each for each in products if isinstance(each, Mapping)))
        if without:
            raise Unmapped(f"{field}: {without} of {len(products)} without {self._names['item_id'][0]}")

    def made(self, products: Iterable[Mapping[str, Any]]) -> Iterator[Made]:
        """Those that have a title and are not known just so."""
        for item_id, product in self.known(products):
            title = text(product, *self._names["title"])
            if title is None:
                continue
            categories = [found for name in self._names["categories"] if (found := text(product, name))]
            item = filled(
                item_id=item_id, title=title, description=text(product, *self._names["description"]),
                categories=list(dict.fromkeys(categories)),
            )  # fmt: skip
            said = self._said.get(item_id)
            before = _decode(said) if said is not None else {}
            item = before | item | filled(attributes=before.get("attributes", {}) | self._described(product))
            if (now := _encode(item)) != said:
                if said is None and len(self._said) >= MOST:
                    self._said.pop(next(iter(self._said)))
                self._said[item_id] = now
                yield "items", item

    def _described(self, product: Mapping[str, Any]) -> dict[str, Any]:
        """Its attributes; a price is a number, however it was written."""
        found = {name: text(product, *fields) for name, fields in self._attributes.items()}
        return filled(**found | {"price": number(product, *self._attributes.get("price", ()))})
