"""What items are called, for the page: read from the items topic beside the loop, and searched by words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from pipeline.messages import Item, Record, Tombstone, Undecodable
from pipeline.ports import Decoder, Source

MOST = 200_000
"""Items whose titles are kept: some 300 bytes each. Those that come later have none on the page."""

POLL_S = 1.0
RETRY_S = 5.0


class Titles:
    """Of each item its title and categories, from what was last said of it."""

    def __init__(self) -> None:
        self._items: dict[str, tuple[str | None, tuple[str, ...], str]] = {}

    def take(self, message: Item | Tombstone) -> None:
        """What an items record says; a tombstone takes its item away."""
        if isinstance(message, Tombstone):
            self._items.pop(message.key, None)
        elif message.item_id in self._items or len(self._items) < MOST:
            words = " ".join((message.title or "", *message.categories, *message.tags, message.item_id)).casefold()
            self._items[message.item_id] = (message.title, message.categories, words)

    def title(self, item_id: str) -> str | None:
        """None where it has none, or is not known."""
        found = self._items.get(item_id)
        return found[0] if found else None

    def row(self, item_id: str) -> dict[str, object]:
        """An item for the page."""
        title, categories, _ = self._items.get(item_id, (None, (), ""))
        return {"item_id": item_id, "title": title, "categories": list(categories)}

    def search(self, text: str, n: int) -> list[str]:
        """Items that have every word, or what begins with it, those first whose title begins with the text.

        >>> titles = Titles()
        >>> for item_id, title in (("1", "The Moon"), ("2", "Moonlight"), ("3", "Stars")):
        ...     titles.take(Item(item_id, title=title))
        >>> titles.search("moon", 5), titles.search("the moon", 5), titles.search("sun", 5)
        (['2', '1'], ['1'], [])
        """
        words, start = text.casefold().split(), text.casefold().strip()
        first: list[str] = []
        then: list[str] = []
        for item_id, (title, _, told) in tuple(self._items.items()):
            if all(told.startswith(word) or f" {word}" in told for word in words):
                (first if (title or "").casefold().startswith(start) else then).append(item_id)
                if len(first) >= n:
                    break
        return (first + then)[:n]


def follow(titles: Titles, make_source: Callable[[], Source], decode: Decoder, stop: threading.Event) -> None:
    """Read the items topic from its beginning, and on, until `stop`; where Kafka fails, once more."""
    while not stop.is_set():
        with suppress(ConnectionError):
            source = make_source()
            try:
                source.seek(source.starts())
                while not stop.is_set():
                    _take(titles, source.poll(1_000, POLL_S), decode)
            finally:
                with suppress(ConnectionError):
                    source.close()
        stop.wait(RETRY_S)


def _take(titles: Titles, records: Iterable[Record], decode: Decoder) -> None:
    for record in records:
        with suppress(Undecodable):
            message = decode(record)
            if isinstance(message, Item | Tombstone):
                titles.take(message)
