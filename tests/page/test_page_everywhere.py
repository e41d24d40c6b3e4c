"""The live page stays whole: hostile text, tokens, lost streams, narrow windows, light and dark, plain HTTP."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable

from browser import emulate, said
from fake_api import Fake, lived_in
from looking import all_of, axe, clicked, opened, titles, until, words
from selenium.webdriver import Chrome, Keys

HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\">",
    "safe\u202egnp.exe \u2066turned\x07",
    "Very long " * 400,
    "W" * 3_000,
    "\"'><script>document.title='taken'</script>",
    "__proto__",
)


def test_hostile_text_does_no_harm(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    items = [
        {"item_id": title[:200], "title": title, "categories": [title[:99]], "attributes": {}} for title in HOSTILE
    ]
    fake = Fake(items)
    user = "<b>e/ve</b>\u202e"
    fake.bury(HOSTILE[0] + HOSTILE[1], "<i>Bad</i>", HOSTILE[0] * 20)
    for item in items[:3]:
        fake.act({"event_type": "like", "user_id": user, "item_id": item["item_id"], "event_id": "e", "timestamp": 0})
    emulate(driver, width=360, height=800)
    opened(driver, serve(fake), "%3Cb%3Ee%2Fve%3C%2Fb%3E%E2%80%AE")
    until(lambda: titles(driver), "for a list")
    driver.execute_script("document.querySelectorAll('.row h3 button').forEach((button) => button.click())")
    until(lambda: len(all_of(driver, ".adds-up")) == 2 * len(HOSTILE), "for explanations")
    assert words(driver, "#list-title") == r"The list of <b>e/ve</b>\u202e"
    assert r"safe\u202egnp.exe \u2066turned\x07" in titles(driver)
    assert max(map(len, titles(driver))) <= 301
    assert not all_of(driver, "main img, main script, main b:not(.reason b), main i")
    assert driver.title == "Headrace, live"
    visible = driver.execute_script("return document.body.innerText")
    assert not set("\u202e\u2066\x07") & set(visible)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= 360


def test_a_token_is_asked_for_kept_and_asked_again(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = Fake(token="right")
    driver.get(serve(fake) + "?user=ada")
    field = until(lambda: all_of(driver, "dialog[open] input[type=password]"), "for the question")[0]
    field.send_keys("wrong", Keys.ENTER)
    until(lambda: "not accepted" in words(driver, "#token-said"), "for the refusal")
    assert axe(driver) == []
    all_of(driver, "#token-input")[0].send_keys("right", Keys.ENTER)
    until(lambda: words(driver, "#state-words") == "Live", "for the stream")
    clicked(driver)
    assert driver.execute_script("return [sessionStorage.length, localStorage.length]") == [1, 0]
    refused = [line for line in said(driver) if "401" not in line]
    assert refused == []
    driver.refresh()
    until(lambda: words(driver, "#state-words") == "Live", "for the stream without a question")
    assert not all_of(driver, "dialog[open]")


def test_it_says_that_the_stream_ended_and_comes_back(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = lived_in()
    opened(driver, serve(fake), "ada")
    clicked(driver)
    letters = len(all_of(driver, "#dead li"))
    fake.down = True
    until(lambda: words(driver, "#state-words") == "Disconnected", "to be told")
    assert re.search(r"Next try in \d+ s|Trying now", words(driver, "#retry-in"))
    assert len(titles(driver)) == 10  # what was there stays
    fake.down = False
    all_of(driver, "#retry")[0].click()
    until(lambda: words(driver, "#state-words") == "Live", "for the stream")
    assert not all_of(driver, "#disconnected")[0].is_displayed()
    assert len(all_of(driver, "#dead li")) == letters
    clicked(driver, 4)
    assert [line for line in said(driver) if "503" not in line] == []


def test_ids_are_random_without_a_secure_origin_too(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    fake = Fake()
    without = {"source": "delete Crypto.prototype.randomUUID"}
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", without)
    try:
        opened(driver, serve(fake), "ada")
        assert driver.execute_script("return crypto.randomUUID === undefined")
        clicked(driver)
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    assert uuid.UUID(fake.events[-1]["event_id"]).version == 4


def test_nothing_is_wider_than_the_window(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    opened(driver, serve(lived_in()), "ada")
    clicked(driver)
    all_of(driver, ".row h3 button")[0].click()
    until(lambda: all_of(driver, ".adds-up"), "for the explanation")
    for width in (1440, 1000, 768, 390, 360):
        emulate(driver, width=width, height=800)
        until(lambda at=width: driver.execute_script("return innerWidth") == at)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_axe_finds_nothing_serious_in_light_and_dark(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    def check(width: int) -> None:
        for dark in (False, True):
            emulate(driver, width=width, dark=dark, calm=True)
            assert axe(driver) == []

    fake = lived_in()
    opened(driver, serve(fake))
    check(1440)
    all_of(driver, "#someone-new")[0].click()
    clicked(driver, 2)
    clicked(driver, 7)
    all_of(driver, ".row h3 button")[0].click()
    all_of(driver, "#quality-table summary")[0].click()
    until(lambda: all_of(driver, ".adds-up") and all_of(driver, "#quality-rows td"), "for everything to be open")
    fake.ready = False
    until(lambda: all_of(driver, "#recovering")[0].is_displayed(), "for the notice")
    check(390)


def test_the_theme_is_the_system_s_until_it_is_chosen(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    url = serve(Fake())
    paper = "return getComputedStyle(document.body).backgroundColor"
    driver.get(url)
    light = driver.execute_script(paper)
    emulate(driver, dark=True)
    dark = until(lambda: (now := driver.execute_script(paper)) != light and now, "for the dark")
    toggle = all_of(driver, "#theme")[0]
    until(lambda: toggle.get_attribute("aria-pressed") == "true", "for the button to be told")
    toggle.click()
    assert driver.execute_script(paper) == light
    driver.refresh()
    assert driver.execute_script(paper) == light
    all_of(driver, "#theme")[0].click()
    assert driver.execute_script(paper) == dark


def test_the_page_asks_nobody_else(driver: Chrome, serve: Callable[[Fake], str]) -> None:
    url = serve(Fake())
    opened(driver, url, "ada")
    clicked(driver)
    asked = driver.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert asked
    assert [name for name in asked if not name.startswith((url, "data:"))] == []
