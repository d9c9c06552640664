"""What the overview says when something is wrong, in a real browser, with the clock put forward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from taskyard.context import Platform
from taskyard.dashboard import live
from tests import factories
from tests.browser.conftest import PATIENCE_MS
from tests.conftest import TestClock
from tests.serving import served

Tick = Callable[[str], None]


@pytest.fixture
def overview(
    browser: Browser, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Page]:
    """The overview of a platform that tests drive."""
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.5)
    token = platform.store.tokens.create(role="viewer", name="v")
    with served(platform) as url:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE_MS)
        cookie = {"name": "taskyard_token", "value": token, "url": url}
        context.add_cookies([cookie])  # type: ignore[list-item] # a TypedDict by shape
        page = context.new_page()
        page.goto(f"{url}/overview?range=15m")
        yield page
        context.close()


def test_alarms_come_and_go_by_themselves_and_lead_to_the_jobs(
    overview: Page, platform: Platform, clock: TestClock, tick: Tick
) -> None:
    store = platform.store
    alarms = overview.locator(".said.alarm")

    def is_well() -> None:
        """A worker shows life, and so do scheduler and beat."""
        for name in ("timeouts", "health", "assignment", "statistics"):
            tick(name)
        store.locks.show_life("scheduler", now=clock.now())
        facts = {"hostname": "h", "cpuCount": 2, "ramTotalMb": 1024}
        store.workers.register("w1", facts, now=clock.now())

    store.jobs.submit([factories.queued_job(now=clock.now(), labels=["gpu"])])
    expect(alarms.nth(0)).to_contain_text("No scheduler is alive (last seen never)")
    expect(alarms.nth(1)).to_contain_text("No worker is online.")

    is_well()
    expect(alarms).to_have_count(1)
    expect(alarms).to_contain_text("Jobs wait for label gpu, which no worker online has.")

    clock.advance(100)
    for name in ("timeouts", "health", "assignment"):
        tick(name)
    store.locks.show_life("scheduler", now=clock.now())
    expect(alarms.nth(0)).to_contain_text("Ticks do not come: statistics")

    is_well()
    expect(alarms).to_have_count(1)
    old = factories.queued_job(now=clock.now() - timedelta(minutes=62), labels=["gpu"])
    store.jobs.submit([old])
    expect(alarms.nth(1)).to_contain_text("Jobs wait for more than an hour, the oldest since")
    alarms.nth(1).get_by_role("link", name="Show the jobs").click()
    expect(overview.locator("td.job a")).to_have_count(1)
    expect(overview.locator(f"a[href$='{old.job_id}']")).to_be_visible()
