"""A browser and a served fake for the tests of the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from browser import NoBrowser, chromium, emulate, said
from fake_api import Fake, Serving
from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    try:
        driver = chromium()
    except NoBrowser as missing:
        pytest.fail(str(missing), pytrace=False)
    yield driver
    driver.quit()


@pytest.fixture
def driver(browser: Chrome) -> Iterator[Chrome]:
    """At 1440 px, in light, with nothing to be said against the page at the end."""
    emulate(browser)
    yield browser
    complaints = said(browser)
    browser.get("about:blank")
    assert complaints == []


@pytest.fixture
def serve() -> Iterator[Callable[[Fake], str]]:
    """Serves a fake until the end of the test; its address."""
    running: list[Serving] = []

    def started(fake: Fake) -> str:
        running.append(Serving(fake))
        return running[-1].url

    yield started
    for each in running:
        each.close()
