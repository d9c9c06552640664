"""Debian's Chromium under Playwright, with nothing of it that would reach for a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")

#: A name of this host that is not loopback's: browsers trust it less over plain http.
NAMED = "taskyard.test"

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP {NAMED} 127.0.0.1",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser while the block runs. Where there is none, tests fail; they never skip."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    assert path, "The browser's tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
