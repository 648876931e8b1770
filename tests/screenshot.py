"""Draws docs/leaderboard.png, the top of the page of results/: python -m tests.screenshot.

Needs chromium and chromedriver.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from selenium import webdriver

ROOT = Path(__file__).parents[1]
SIZE = {"width": 1100, "height": 640, "deviceScaleFactor": 1.5, "mobile": False}
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--disable-background-networking", "--hide-scrollbars")  # fmt: skip


def main() -> None:
    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", SIZE)
        browser.get((ROOT / "results" / "index.html").as_uri())
        browser.save_screenshot(str(ROOT / "docs" / "leaderboard.png"))
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
