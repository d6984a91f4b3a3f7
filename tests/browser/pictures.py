"""Takes the pictures of the documentation from the running tavern: `python -m tests.browser.pictures [URL]`."""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By

from tests.browser.chromium import DESKTOP, PHONE, chromium

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
# The tavern's first minute: two groups, turns, a silence.
WATCH_S = 25.0


def take(driver: Any, name: str) -> None:
    """Save the page as it is."""
    data = base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])
    (PICTURES / name).write_bytes(data)
    print(f"{name}: {len(data) // 1024} KiB")  # noqa: T201 - a command


def main(url: str) -> None:
    """Desktop in light and dark, an explanation, a phone."""
    with chromium(DESKTOP) as driver:
        driver.get(url)
        time.sleep(WATCH_S)
        take(driver, "scope.png")
        driver.find_elements(By.CSS_SELECTOR, "#feed .meta button")[-1].click()
        time.sleep(1)
        take(driver, "scope-why.png")
    with chromium(DESKTOP, dark=True) as driver:
        driver.get(url)
        time.sleep(WATCH_S / 3)
        take(driver, "scope-dark.png")
    with chromium(PHONE, dark=True) as driver:
        driver.get(url)
        time.sleep(WATCH_S / 3)
        take(driver, "scope-phone.png")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
