"""Screenshots of every page, light and dark, wide and narrow: ``python -m tests.browser.shots``.

They are for people to look at; no test compares them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

from tests.browser.chromium import chromium
from tests.browser.history import live_through
from tests.browser.scene import Scene, set_scene
from tests.processes.conftest import Up

WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 800}

#: Pages with long lists, of which the first screen is enough.
LONG = ("jobs", "jobs-failed", "worker")

Colours = Literal["light", "dark"]


def main(folder: Path) -> None:
    """Start a platform, put jobs on it, and take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as home, chromium() as browser:
        up = Up(Path(home))
        try:
            with set_scene(up.await_ready()) as scene:
                live_through(up, scene.client.workers()["workers"][0]["workerId"])
                for colours in ("light", "dark"):
                    take(browser, scene, folder, colours)
        finally:
            up.stop()


def take(browser: Browser, scene: Scene, folder: Path, colours: Colours) -> None:
    """Take the pictures of all pages in one colour scheme, wide and narrow."""
    worker = scene.client.workers()["workers"][0]["workerId"]
    pages = {
        "sign-in": "/sign-in",
        "jobs": "/",
        "jobs-failed": "/?status=FAILED",
        "jobs-none": "/?q=nothing-like-this",
        "job-build": f"/jobs/{scene.jobs['build']}",
        "job-failed": f"/jobs/{scene.jobs['failed']}",
        "job-retried": f"/jobs/{scene.jobs['retried']}",
        "job-waits": f"/jobs/{scene.jobs['waits']}",
        "job-runs": f"/jobs/{scene.jobs['runs']}",
        "job-hostile": f"/jobs/{scene.jobs['hostile']}",
        "job-edit": f"/jobs/{scene.jobs['failed']}/edit",
        "workers": "/workers",
        "overview": "/overview?range=24h",
        "system": "/system",
        "worker": f"/worker?id={worker}",
    }
    for kind, size in (("wide", WIDE), ("narrow", NARROW)):
        context = browser.new_context(viewport=size, color_scheme=colours)  # type: ignore[arg-type] # a TypedDict by shape
        cookie = {"name": "taskyard_token", "value": scene.token, "url": scene.url}
        context.add_cookies([cookie])  # type: ignore[list-item] # a TypedDict by shape
        page = context.new_page()
        for name, path in pages.items():
            page.goto(scene.url + path)
            page.wait_for_timeout(400)
            picture = folder / f"{name}-{kind}-{colours}.png"
            page.screenshot(path=picture, full_page=name not in LONG)
        context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shots"))
