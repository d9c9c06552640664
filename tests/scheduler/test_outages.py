"""The sweep around outages: no lease is expired before its agent had time to renew it."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from taskyard import ids
from taskyard.clock import RESYNC_SECONDS, Clock
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment
from taskyard.scheduler import timeouts
from taskyard.settings import Settings
from taskyard.store.client import Store
from tests import factories
from tests.conftest import TestClock
from tests.helpers import before_each_write

LEASE = timedelta(seconds=15)
GRACE = timedelta(seconds=65)


class Running:
    """A job that runs on an agent; the agent renews its lease when a test calls ``renew``."""

    def __init__(self, store: Store, worker_id: str = "w1") -> None:
        self._store = store
        now = store.clock.now()
        queued = factories.queued_job(now=now)
        store.jobs.submit([queued])
        at = Moment(now=now)
        assigned = store.jobs.apply(
            lifecycle.assign(
                queued, worker_id=worker_id, lease_id=ids.lease(), at=at, start_by=now + LEASE
            )
        )
        assert assigned
        self.lease = lease_of(assigned)
        assert store.jobs.apply(
            lifecycle.start(assigned, self.lease, at=at, lease_until=now + LEASE)
        )

    @property
    def job(self) -> Job:
        return self._store.jobs.get(self.lease.job_id)

    def renew(self, *, now: datetime | None = None) -> bool:
        held = self._store.leases.renew(
            "w1", [self.lease], now=now or self._store.clock.now(), lease=LEASE, grace=GRACE
        )
        return [renewed.lease for renewed in held] == [self.lease]


@pytest.fixture
def clock(clock: TestClock, monkeypatch: pytest.MonkeyPatch) -> TestClock:
    """A clock that stands still until a test advances it, however slow the machine is."""
    began = clock.now()
    monkeypatch.setattr(Clock, "now", lambda _: began)
    return clock


@pytest.fixture
def running(store: Store) -> Running:
    return Running(store)


def sweep(store: Store, settings: Settings) -> timeouts.TimeoutsReport:
    return timeouts.tick(store, settings)


def test_after_an_outage_nothing_is_expired_for_one_full_lease(
    store: Store, settings: Settings, clock: TestClock, running: Running
) -> None:
    sweep(store, settings)
    clock.advance(60)
    held: list[bool] = []
    for _ in range(25):
        held.append(sweep(store, settings).held_back)
        clock.advance(2)
    seconds = 2 * held.index(False)
    hold = RESYNC_SECONDS + max(settings.lease_seconds, settings.http_lease_seconds)
    assert hold <= seconds <= hold + 2
    assert not any(held[held.index(False) :])
    assert running.job.status is JobStatus.QUEUED


def test_an_agent_keeps_its_job_through_an_outage_longer_than_its_lease(
    store: Store, settings: Settings, clock: TestClock, running: Running
) -> None:
    sweep(store, settings)
    clock.advance(60)
    sweep(store, settings)
    for _ in range(25):
        assert running.renew()
        clock.advance(2)
        sweep(store, settings)
    assert (running.job.status, running.job.attempts) == (JobStatus.RUNNING, 1)


@pytest.mark.parametrize("outage_seconds", [1, 2, 3, 4, 5, 5.9, 6.1, 8, 12, 20])
@pytest.mark.parametrize("due_seconds", [0, 2.5, 5])
def test_no_outage_costs_a_lease(
    store: Store,
    settings: Settings,
    clock: TestClock,
    running: Running,
    outage_seconds: float,
    due_seconds: float,
) -> None:
    """The outage begins just after a sweep, ``due_seconds`` after the last renewal; when it ends,
    the sweep comes first and the agent renews two seconds later.
    """
    running.renew()
    clock.advance(due_seconds)
    sweep(store, settings)
    clock.advance(outage_seconds)
    for _ in range(4):
        sweep(store, settings)
        clock.advance(0.5)
    assert running.renew()
    assert running.job.attempts == 1


@pytest.mark.parametrize("step_seconds", [1, 4, 5, 10, 30, 200])
@pytest.mark.parametrize("noticed_seconds", [0, 2, RESYNC_SECONDS])
def test_a_step_of_the_databases_clock_expires_nothing_that_is_renewed(
    store: Store,
    settings: Settings,
    clock: TestClock,
    running: Running,
    step_seconds: float,
    noticed_seconds: float,
) -> None:
    """The scheduler sees the step at once, the agent when it next measures the clock; until then
    the agent writes instants of the old clock.
    """
    sweep(store, settings)
    clock.advance(step_seconds)
    for seconds in range(60):
        if seconds % settings.renewal_seconds == 0:
            behind = timedelta(seconds=step_seconds if seconds < noticed_seconds else 0)
            running.renew(now=clock.now() - behind)
        if seconds % settings.timeouts_tick_seconds == 0:
            sweep(store, settings)
        clock.advance(1)
    assert (running.job.status, running.job.attempts) == (JobStatus.RUNNING, 1)


def test_a_clock_that_was_a_day_ahead_for_a_moment_holds_the_sweep_for_no_day(
    store: Store, settings: Settings, clock: TestClock, running: Running
) -> None:
    day = 24 * 3600
    sweep(store, settings)
    clock.advance(day)
    assert sweep(store, settings).held_back
    clock.advance(-day)
    hold = timeouts.outage_hold(settings).total_seconds()
    held: list[bool] = []
    for _ in range(25):
        held.append(sweep(store, settings).held_back)
        clock.advance(2)
    assert hold <= 2 * held.index(False) <= hold + 2
    assert running.job.status is JobStatus.QUEUED
    clock.advance(20)
    assert sweep(store, settings).held_back, "an outage is seen again"


def test_a_sweep_writes_once_however_many_agents_are_lost(
    store: Store, settings: Settings, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that waited for a majority for each job would be late and hold back the next."""
    lost = [Running(store, f"w{number}") for number in range(5)]
    for _ in range(8):
        sweep(store, settings)
        clock.advance(2)
    renewed = Running(store)
    waited: list[str] = []
    before_each_write(monkeypatch, waited.append)
    assert sweep(store, settings).requeued == len(lost)
    assert [name for name in waited if name != "locks"] == ["workers", "jobs"]
    assert {one.job.status for one in lost} == {JobStatus.QUEUED}
    assert renewed.job.status is JobStatus.RUNNING


def test_a_scheduler_that_dies_after_its_note_leaves_the_hold_to_others(
    store: Store, settings: Settings, clock: TestClock, running: Running
) -> None:
    sweep(store, settings)
    clock.advance(60)
    gap, hold = timeouts.outage_gap(settings), timedelta(seconds=30)
    store.locks.note_sweep(now=clock.now(), gap=gap, hold=hold)
    clock.advance(2)
    assert sweep(store, settings).held_back
    assert running.job.status is JobStatus.RUNNING


def test_of_many_that_come_after_an_outage_none_expires_anything(
    store: Store, settings: Settings, clock: TestClock, running: Running
) -> None:
    sweep(store, settings)
    clock.advance(60)
    reports: list[timeouts.TimeoutsReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(sweep(store, settings))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.held_back for report in reports] == [True] * 8


def test_a_scheduler_that_wakes_with_an_old_instant_takes_no_hold_away(
    store: Store, settings: Settings, clock: TestClock, running: Running
) -> None:
    sweep(store, settings)
    before = clock.now()
    # Only 30 s: a mark a minute ahead would count as left from before the clock was set back.
    clock.advance(30)
    assert sweep(store, settings).held_back
    gap, hold = timeouts.outage_gap(settings), timedelta(seconds=30)
    assert store.locks.note_sweep(now=before, gap=gap, hold=hold)
    assert store.locks.ticks()["timeouts"] > before
    clock.advance(2)
    assert sweep(store, settings).held_back


def test_a_scheduler_paused_in_the_middle_judges_by_the_instant_it_began_with(
    store: Store,
    settings: Settings,
    clock: TestClock,
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scheduler reads an overdue job and is paused, the agent renews, and the scheduler resumes
    after an outage that is longer than a lease.
    """
    sweep(store, settings)
    for _ in range(8):
        clock.advance(2)
        store.locks.note_sweep(
            now=clock.now(), gap=timedelta(seconds=6), hold=timedelta(seconds=30)
        )
    read = store.live.overdue

    def overdue(now: datetime, **options: Any) -> list[Job]:
        found = read(now, **options)
        assert [job.job_id for job in found] == [running.lease.job_id]
        assert running.renew()
        clock.advance(60)
        return found

    monkeypatch.setattr(store.live, "overdue", overdue)
    report = sweep(store, settings)
    assert (report.requeued, report.ended) == (0, 0)
    assert running.job.status is JobStatus.RUNNING


@pytest.mark.parametrize(
    ("lease", "renewal", "interval", "gap"),
    [(15, 5, 2, 6), (30, 5, 2, 6), (6, 2, 1, 2), (4, 1, 0.5, 1), (3, 1, 2, 3)],
)
def test_the_gap_that_is_no_outage_leaves_room_to_renew(
    lease: float, renewal: float, interval: float, gap: float
) -> None:
    settings = Settings(
        lease_seconds=lease, renewal_seconds=renewal, timeouts_tick_seconds=interval
    )
    assert timeouts.outage_gap(settings) == timedelta(seconds=gap)
