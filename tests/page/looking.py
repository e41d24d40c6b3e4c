"""What a test does with the page: open it, click, wait, read what is there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from importlib import resources
from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

WAIT_S = 20
CHANGED = r"(?:List changed|The same list again) (?:\d+ ms|[\d.]+ s) after your click"


def until(check: Callable[[], Any], what: str = "") -> Any:
    """Wait until it holds; its value."""
    end = time.monotonic() + WAIT_S
    while not (found := check()):
        assert time.monotonic() < end, f"waited {WAIT_S} s in vain {what}"
        time.sleep(0.02)
    return found


def all_of(driver: Chrome, selector: str) -> list[WebElement]:
    return driver.find_elements(By.CSS_SELECTOR, selector)


def words(driver: Chrome, selector: str) -> str:
    return str(driver.execute_script("return document.querySelector(arguments[0]).textContent", selector))


def titles(driver: Chrome) -> list[str]:
    script = "return [...document.querySelectorAll('.row:not(.leaving) .title')].map((title) => title.textContent)"
    found: list[str] = driver.execute_script(script)
    return found


def opened(driver: Chrome, url: str, user: str = "") -> None:
    driver.get(f"{url}?user={user}" if user else url)
    until(lambda: words(driver, "#state-words") == "Live", "for the stream")


def clicked(driver: Chrome, at: int = 0) -> str:
    """Click on a card and wait for the list; what the stopwatch says."""
    until(lambda: len(all_of(driver, ".card")) > at, "for cards")
    # What an earlier click left there may read the same, to the millisecond, as what this one will bring.
    driver.execute_script("document.querySelector('#stopwatch').dataset.state = 'unclicked'")
    all_of(driver, ".card")[at].click()
    until(
        lambda: driver.execute_script("return document.querySelector('#stopwatch').dataset.state") == "done",
        "for a list",
    )
    told = words(driver, "#stopwatch")
    assert re.fullmatch(CHANGED, told), told
    return told


def still(driver: Chrome) -> bool:
    """Whether nothing fades or moves that comes to an end: what is half faded in has no colour of its own."""
    script = """
        const ends = (animation) => animation.effect.getComputedTiming().activeDuration !== Infinity;
        return !document.getAnimations().some((animation) => animation.playState === "running" && ends(animation));
    """
    return bool(driver.execute_script(script))


def axe(driver: Chrome) -> list[str]:
    """Serious and critical violations, as axe-core finds them, once the page has come to rest."""
    until(lambda: still(driver), "for the page to come to rest")
    driver.execute_script(resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    found = driver.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
    return [
        f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
