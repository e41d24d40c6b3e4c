"""The live page in a real browser, before a fake of its API: what a person does there, and what they see of it."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import pytest
from browser import emulate
from fake_api import Fake, films, lived_in
from looking import CHANGED, all_of, clicked, opened, titles, until, words
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By


def test_a_click_becomes_an_event_and_changes_the_list(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = Fake()
    opened(driver, serve(fake), "ada")
    assert "No list yet" in words(driver, "#no-list")
    clicked(driver, 3)
    first = titles(driver)
    assert len(first) == 10
    event = fake.events[-1]
    assert event["event_type"] == "like"
    assert event["user_id"] == "ada"
    assert event["item_id"] in fake.taste.items
    assert abs(event["timestamp"] - time.time() * 1000) < 10_000
    assert uuid.UUID(event["event_id"]).version == 4
    all_of(driver, "input[value=purchase] + span")[0].click()
    assert clicked(driver, 8).startswith("List changed")
    assert titles(driver) != first
    assert fake.events[-1]["event_type"] == "purchase"
    assert all_of(driver, ".mark[data-kind=new], .mark[data-kind=up]")
    until(lambda: re.fullmatch(r"List changed: .{1,160}\.", words(driver, "#said")), "for the spoken sentence")


def test_what_is_said_becomes_a_search_event(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = Fake()
    opened(driver, serve(fake), "ada")
    all_of(driver, "#ask")[0].send_keys("western", Keys.ENTER)
    until(lambda: titles(driver), "for a list")
    assert {"event_type": "search", "text": "western"}.items() <= fake.events[-1].items()
    until(lambda: words(driver, "#stopwatch").endswith(" after your search"), "for the time that it took")
    assert "item_id" not in fake.events[-1]


def test_who_is_known_has_a_list_before_anything_was_published(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = lived_in()
    fake.lists.clear()
    opened(driver, serve(fake), "mei")
    until(lambda: len(titles(driver)) == 10, "for the list that was asked for")


def test_items_are_found_by_their_words(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    opened(driver, serve(Fake()))
    all_of(driver, "#find")[0].send_keys("matrix")
    until(lambda: "found" in words(driver, "#found"), "for what was found")
    assert all("Matrix" in card.text for card in all_of(driver, ".card"))
    all_of(driver, ".card")[0].click()
    until(lambda: "say who you are" in words(driver, "#refused"), "to be told that there is no user")


def test_rows_move_unless_motion_is_unwanted(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    url = serve(Fake())
    moves = "return window.moves ??= (() => { let n = 0; const own = Element.prototype.animate;"
    moves += (
        "Element.prototype.animate = function (...all) { n += 1; return own.apply(this, all); }; return () => n; })()"
    )
    for calm in (False, True):
        emulate(driver, calm=calm)
        opened(driver, url, f"user-{calm}")
        driver.execute_script(moves)
        clicked(driver, 2)
        clicked(driver, 9)
        assert (driver.execute_script("return window.moves()") == 0) == calm


def test_an_open_row_tells_why_and_adds_up(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    opened(driver, serve(Fake()), "ada")
    for at in (0, 5, 9):
        clicked(driver, at)
    button = all_of(driver, ".row h3 button")[0]
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    tables = until(lambda: all_of(driver, ".row:first-child .adds-up"), "for the explanation")
    for table in tables:
        cells = table.find_elements(By.CSS_SELECTOR, ".number")
        *parts, total = [float(cell.text.replace("−", "-")) for cell in cells]
        assert len(parts) >= 4
        assert sum(parts) == pytest.approx(total, abs=0.01 * len(parts))
        assert total == float(words(driver, ".row:first-child .score"))
    panel = driver.find_element(By.ID, button.get_attribute("aria-controls") or "")
    assert panel.is_displayed()


def test_everything_goes_by_keyboard_and_the_focus_is_seen(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    opened(driver, serve(Fake()))
    until(lambda: all_of(driver, ".card"), "for cards")
    focus = (
        "const f = document.activeElement; const s = getComputedStyle(f.matches('.verbs input') ? f.nextSibling : f);"
    )

    def press(*keys: str) -> None:
        ActionChains(driver).send_keys(*keys).perform()

    def tab_to(selector: str) -> None:
        for _ in range(60):
            press(Keys.TAB)
            there, seen = driver.execute_script(f"{focus} return [f.matches(arguments[0]), s.outlineStyle]", selector)
            assert seen != "none"
            if there:
                return
        pytest.fail(f"{selector} is not reached by Tab")

    tab_to(".skip")
    tab_to("#theme")
    tab_to("#user")
    press("cleo", Keys.ENTER)
    assert words(driver, "#list-title") == "The list of cleo"
    tab_to(".verbs input")
    press(Keys.ARROW_RIGHT)
    tab_to(".card")
    press(Keys.ENTER)
    until(lambda: titles(driver), "for a list")
    tab_to(".row h3 button")
    press(Keys.SPACE)
    until(lambda: all_of(driver, ".row [aria-expanded=true]"), "for the row to open")
    tab_to(".again")
    press(Keys.ENTER)
    until(lambda: re.fullmatch(CHANGED, words(driver, "#stopwatch")), "for the changed list")
    assert driver.execute_script("return document.activeElement.closest('.list') !== null")  # never lost on the way


def test_empty_places_say_what_to_do(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = Fake([])
    fake.ready = False
    fake.remember()
    driver.get(serve(fake))
    until(lambda: words(driver, "#state-words") == "Recovering", "for the state")
    assert all_of(driver, "#recovering")[0].is_displayed()
    until(lambda: all_of(driver, "#no-items")[0].is_displayed(), "for the hint")
    assert "headrace publish items.jsonl" in words(driver, "#no-items")
    assert all_of(driver, "#nobody")[0].is_displayed()
    assert all_of(driver, "#no-dead")[0].is_displayed()
    fake.taste = Fake(films()[:5]).taste
    until(lambda: len(all_of(driver, ".card")) == 5, "for the first items")


def test_it_tells_how_well_in_a_chart_a_sentence_and_a_table(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    opened(driver, serve(lived_in()))
    chart = until(lambda: all_of(driver, "#chart svg[role=img]"), "for the chart")[0]
    told = r"nDCG at 10 since [\d:]+: Headrace \.\d{3}, item–item \.\d{3}, popularity \.\d{3}; 2 drift marks\."
    assert re.fullmatch(told, chart.get_attribute("aria-label") or "")
    assert len(all_of(driver, "#chart .drift-mark")) == 2
    assert len(all_of(driver, ".weights li:not(.leaving)")) == 10
    all_of(driver, "#quality-table summary")[0].click()
    until(lambda: len(all_of(driver, "#quality-rows tbody tr")) >= 10, "for the table")
