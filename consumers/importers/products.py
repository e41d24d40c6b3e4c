"""Products as shops' events carry them along: an item each, said again only when it changed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from consumers.importers.base import Made, filled, text

MOST = 1_000_000


class Products:
    """Remembers a checksum per product, of at most a million of them: one that is forgotten is only said again."""

    def __init__(self, names: Mapping[str, tuple[str, ...]], attributes: Mapping[str, tuple[str, ...]]) -> None:
        """Under which fields `item_id`, `title`, `description` and `categories` lie, and which are attributes."""
        self._names = names
        self._attributes = attributes
        self._said: dict[str, int] = {}

    def id_of(self, product: Mapping[str, Any]) -> str | None:
        """The product's id, None if it has none."""
        return text(product, *self._names["item_id"])

    def made(self, products: list[Mapping[str, Any]]) -> Iterator[Made]:
        """Those that have a title and are not known just so."""
        for product in products:
            item_id, title = self.id_of(product), text(product, *self._names["title"])
            if item_id is None or title is None:
                continue
            categories = [found for name in self._names["categories"] if (found := text(product, name))]
            attributes = {name: text(product, *fields) for name, fields in self._attributes.items()}
            item = filled(
                item_id=item_id, title=title, description=text(product, *self._names["description"]),
                categories=list(dict.fromkeys(categories)), attributes=filled(**attributes),
            )  # fmt: skip
            checksum = zlib.crc32(repr(item).encode("utf-8", "replace"))
            if self._said.get(item_id) != checksum:
                if len(self._said) >= MOST:
                    self._said.pop(next(iter(self._said)))
                self._said[item_id] = checksum
                yield "items", item
