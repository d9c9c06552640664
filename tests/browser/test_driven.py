"""Pages in a browser, on a platform whose clock and ticks the tests drive: faults, many jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, expect

from taskyard.context import Platform
from taskyard.dashboard import live
from taskyard.jobs.search import in_states
from taskyard.jobs.states import JobStatus
from tests import factories
from tests.browser.conftest import PATIENCE_MS
from tests.conftest import TestClock
from tests.serving import served

Tick = Callable[[str], None]


@pytest.fixture
def page(browser: Browser, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page of a signed-in operator; addresses are paths of the platform."""
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.5)
    token = platform.store.tokens.create(role="operator", name="o")
    with served(platform) as url:
        context = browser.new_context(base_url=url)
        context.set_default_timeout(PATIENCE_MS)
        cookie = {"name": "taskyard_token", "value": token, "url": url}
        context.add_cookies([cookie])  # type: ignore[list-item] # a TypedDict by shape
        yield context.new_page()
        context.close()


def test_alarms_come_and_go_by_themselves_and_lead_to_the_jobs(
    page: Page, platform: Platform, clock: TestClock, tick: Tick
) -> None:
    store = platform.store
    page.goto("/overview?range=15m")
    alarms = page.locator(".said.alarm")

    def is_well() -> None:
        """Have a worker, the scheduler and beat show life."""
        for name in ("timeouts", "health", "assignment", "statistics"):
            tick(name)
        store.locks.note_scheduler(now=clock.now())
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
    store.locks.note_scheduler(now=clock.now())
    expect(alarms.nth(0)).to_contain_text("Ticks do not come: statistics")

    is_well()
    expect(alarms).to_have_count(1)
    old = factories.queued_job(now=clock.now() - timedelta(minutes=62), labels=["gpu"])
    store.jobs.submit([old])
    expect(alarms.nth(1)).to_contain_text("Jobs wait for more than an hour, the oldest since")
    alarms.nth(1).get_by_role("link", name="Show the jobs").click()
    expect(page.locator("td.job a")).to_have_count(1)
    expect(page.locator(f"a[href$='{old.job_id}']")).to_be_visible()


def test_older_jobs_are_a_page_of_their_own_and_back_leads_back(
    page: Page, platform: Platform, clock: TestClock
) -> None:
    """All jobs on one page are selected and cancelled; those on the next page are not."""
    now = clock.now()
    jobs = [factories.queued_job(now=now - timedelta(seconds=n)) for n in range(60)]
    platform.store.jobs.submit(jobs)
    page.goto("/?q=status:queued")
    shown = page.locator("td.job a")
    expect(shown).to_have_count(50)
    page.get_by_role("link", name="Older jobs").click()
    expect(shown).to_have_count(10)
    older = {link.get_attribute("title") for link in shown.all()}
    assert older == {job.job_id for job in jobs[50:]}
    page.go_back()
    expect(shown).to_have_count(50)
    page.get_by_label("Select all on this page").check()
    expect(page.locator("#selected")).to_have_text("50 selected")
    page.locator(".bulk").get_by_role("button", name="Cancel…").click()
    expect(page.locator("h1")).to_have_text("Cancel 50 jobs?")
    page.get_by_role("button", name="Cancel 50 jobs").click()
    expect(page.locator(".said")).to_contain_text("50 jobs cancelled")
    queued = platform.store.queries.page(in_states([JobStatus.QUEUED]), limit=60)
    assert {job.job_id for job in queued.jobs} == older
