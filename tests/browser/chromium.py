"""Debian's Chromium under Playwright, without its own features that use the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome")

#: A name that resolves to this host but is not loopback's: over plain HTTP, browsers trust such an
#: origin less.
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
    """Run a browser for the duration of the block; without Chromium, tests fail, never skip."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    assert path, "The browser's tests need Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()
