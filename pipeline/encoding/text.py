"""The text of an item, cleaned, and the short hash by which a text is known."""

from __future__ import annotations

import hashlib
import unicodedata

from pipeline.messages import Item

_DROPPED = ("Cc", "Cs")


def clean(text: str) -> str:
    r"""Normal form C, without control characters and lone surrogates, each run of whitespace one space.

    >>> clean("  Cafe\u0301\x00 \n\t noir ")
    'Café noir'
    """
    kept = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in _DROPPED)
    # Composed last: what a control character held apart composes once it is gone.
    return " ".join(unicodedata.normalize("NFC", kept).split())


def item_text(item: Item) -> str:
    """What is embedded of an item: title, categories, tags, description, in this order, cleaned.

    The description comes last because it is the part that `max_tokens` may cut.
    Categories and tags keep the order in which they were given, each once.
    Empty if the item has none of the four. Attributes and availability are no
    part of it: they change often, and must not cause a new embedding.

    >>> item_text(Item("1", title="Alien", categories=("Horror", "Sci-Fi"), description="In space."))
    'Alien. Horror, Sci-Fi. In space.'
    >>> item_text(Item("2", available=False))
    ''
    """
    parts = [
        clean(item.title or ""),
        _listed(item.categories),
        _listed(item.tags),
        clean(item.description or ""),
    ]
    return ". ".join(part for part in parts if part)


def _listed(names: tuple[str, ...]) -> str:
    cleaned = (clean(name) for name in names)
    return ", ".join(dict.fromkeys(name for name in cleaned if name))


def content_hash(content: bytes) -> str:
    """32 hex digits of BLAKE2b."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def text_hash(text: str) -> str:
    """`content_hash` of the text's UTF-8.

    Raises UnicodeEncodeError on a lone surrogate, which `clean` removes.

    >>> text_hash("Alien") == text_hash("Alien") != text_hash("alien")
    True
    """
    return content_hash(text.encode())
