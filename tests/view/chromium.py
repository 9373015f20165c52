"""A headless Chromium that shows a page, and the pictures of docs/view.md: `python tests/view/pictures.py`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def start() -> Any:
    """Returns a driver of selenium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


def show(chrome: Any, page: Path, layer: str = "", width: int = 1300, height: int = 900, dark: bool = False) -> None:
    """Opens a page in a window of a size, in light or dark, and waits until it is drawn."""
    from selenium.webdriver.support.ui import WebDriverWait

    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    chrome.get("about:blank")  # a page that differs in its fragment alone would not be loaded again
    chrome.get(page.as_uri() + (f"#{layer}" if layer else ""))
    WebDriverWait(chrome, 60).until(lambda chrome: chrome.execute_script("return document.body.dataset.ready"))
