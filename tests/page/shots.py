"""Pictures of the page for the documentation: wide and phone, light and dark.

    python tests/page/shots.py [--url http://127.0.0.1:9464/] [--user NAME] [--out docs]

Without --url it takes them from the fake API.
"""

from __future__ import annotations

import argparse
import base64
import io
import time
from pathlib import Path

from browser import chromium, emulate
from fake_api import Serving, lived_in
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parents[2]
SIZES = {"wide": (1440, 1000, 1.0), "phone": (390, 844, 1.5)}
TALLEST = {"wide": 3200, "phone": 2100}
CLICKS = 5
COLOURS = 256


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", help="of a running learner; without it a fake is started")
    parser.add_argument("--user", default="ada")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    serving = None if arguments.url else Serving(lived_in())
    driver = chromium()
    try:
        url = arguments.url or (serving.url if serving else "")
        driver.get(f"{url}?user={arguments.user}")
        clicked(driver)
        for size in SIZES:
            for dark in (False, True):
                path = arguments.out / f"page-{size}-{'dark' if dark else 'light'}.png"
                path.write_bytes(shot(driver, size, dark))
                print(f"{path} {path.stat().st_size // 1000} KB")
    finally:
        driver.quit()
        if serving:
            serving.close()


def clicked(driver: Chrome) -> None:
    """Act a little, so that there is a list that has changed, and open one row."""
    wait = WebDriverWait(driver, 20)
    wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, ".card"))
    for index in range(CLICKS):
        driver.find_elements(By.CSS_SELECTOR, ".card")[index * 2].click()
        wait.until(lambda d: d.find_element(By.ID, "stopwatch").get_attribute("data-state") == "done")
    driver.execute_script("document.querySelectorAll('.row h3 button')[1].click()")
    wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, ".panel:not([hidden]) .sum"))
    driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")


def shot(driver: Chrome, size: str, dark: bool) -> bytes:
    """The whole page as a PNG of few colours."""
    width, height, scale = SIZES[size]
    emulate(driver, width=width, height=height, scale=scale, dark=dark, calm=True)
    time.sleep(1.5)  # bars and rows come to rest, and the numbers of a second come in
    whole = driver.execute_script("return document.documentElement.scrollHeight")
    emulate(driver, width=width, height=min(whole, TALLEST[size]), scale=scale, dark=dark, calm=True)
    time.sleep(0.5)
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    picture = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
    few = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    out = io.BytesIO()
    few.save(out, "PNG", optimize=True)
    return out.getvalue()


if __name__ == "__main__":
    main()
