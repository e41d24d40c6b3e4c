"""A headless Chromium for tests and pictures of the page: Debian's, with its driver."""

from __future__ import annotations

import json
import shutil
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

MISSING = "chromium and chromedriver are needed: apt-get install chromium chromium-driver"


class NoBrowser(Exception):
    """Chromium or its driver is not installed."""


def chromium(width: int = 1440, height: int = 1000) -> webdriver.Chrome:
    """Start one; raises NoBrowser."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        raise NoBrowser(MISSING)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # No sandbox: CI is root. /dev/shm may be small in a container.
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


def emulate(
    driver: webdriver.Chrome,
    *,
    width: int = 1440,
    height: int = 1000,
    scale: float = 1,
    dark: bool = False,
    calm: bool = False,
) -> None:
    """Another window, another liking."""
    phone = width < 600
    metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": phone}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
    ]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def said(driver: webdriver.Chrome) -> list[str]:
    """What the console has said since the last call, warnings and errors: violations of the CSP are among them."""
    return [json.dumps(each) for each in _log(driver) if each["level"] in ("WARNING", "SEVERE")]


def _log(driver: webdriver.Chrome) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = driver.get_log("browser")
    return found
