"""One platform with jobs, and one browser, for all tests of the pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.chromium import chromium
from tests.browser.scene import HOSTILE, Scene, set_scene
from tests.processes.conftest import Up

PATIENCE_MS = 30_000


@pytest.fixture(scope="package")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    up = Up(tmp_path_factory.mktemp("home"))
    try:
        with set_scene(up.await_ready()) as scene:
            yield scene
    finally:
        up.stop()


@pytest.fixture
def dead_letter(scene: Scene) -> str:
    """Send a message for a task that no worker knows; return its arguments, which are hostile."""
    arguments = json.dumps([HOSTILE])
    sent = scene.up.run(
        *("celery", "-A", "taskyard.celery_app", "call", "nobody.knows", "--queue", "scheduler"),
        *("--args", arguments),
    )
    assert sent.returncode == 0, sent.stderr
    return arguments


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=PATIENCE_MS)
    with chromium() as started:
        yield started


Opens = Callable[..., Page]


@pytest.fixture
def complaints() -> list[str]:
    """Errors from the browser's console and uncaught errors of its scripts."""
    return []


@pytest.fixture
def opens(browser: Browser, scene: Scene, complaints: list[str]) -> Iterator[Opens]:
    """A function that opens pages, each in a new profile; ``complaints`` fail the test."""
    contexts: list[BrowserContext] = []

    def open_page(path: str = "/", token: str | None = scene.token, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type] # passed through
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        if token:
            cookie = {"name": "taskyard_token", "value": token, "url": scene.url}
            context.add_cookies([cookie])  # type: ignore[list-item] # a TypedDict by shape
        page = context.new_page()
        page.on(
            "console",
            lambda said: complaints.extend(
                [f"{said.text} {said.location}"] * (said.type == "error")
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(scene.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(opens: Opens) -> Page:
    """The list of jobs, opened by an operator."""
    return opens("/")
