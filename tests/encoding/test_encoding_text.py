"""What of an item is embedded, and that the same item always gives the same text."""

import unicodedata

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.encoding.text import clean, item_text, text_hash
from pipeline.messages import Item


def test_title_categories_tags_description_in_this_order() -> None:
    item = Item("1", title="Alien", description="In space.", categories=("Horror", "Sci-Fi"), tags=("1979",))
    assert item_text(item) == "Alien. Horror, Sci-Fi. 1979. In space."


@pytest.mark.parametrize("item", [Item("1"), Item("1", title=" \n", tags=("", "\x00"), attributes={"a": "b"})])
def test_an_item_without_text_gives_the_empty_text(item: Item) -> None:
    assert item_text(item) == ""


def test_what_changes_often_does_not_change_the_text() -> None:
    item = Item("1", title="Alien")
    changed = msgspec.structs.replace(item, available=False, expires_at=5, timestamp=9, attributes={"price": 3})
    assert item_text(changed) == item_text(item)


def test_composed_and_decomposed_spellings_are_one_text() -> None:
    composed, decomposed = "Amélie", "Ame\u0301lie"
    assert composed != decomposed
    assert text_hash(item_text(Item("1", title=composed))) == text_hash(item_text(Item("2", title=decomposed)))


def test_joined_emoji_and_chinese_survive() -> None:
    assert clean("👨\u200d👩\u200d👧 红色高跟鞋") == "👨\u200d👩\u200d👧 红色高跟鞋"


@given(st.text(st.characters(exclude_categories=[]), max_size=60))
@example("e\x00\u0301")
@example("a\ud800b")
def test_clean_text_is_stable_composed_and_free_of_controls(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in cleaned)
    assert "  " not in cleaned
    assert cleaned == cleaned.strip()
    assert len(text_hash(cleaned)) == 32
