"""The statistics tick: each ended job is counted once, whichever scheduler counts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from taskyard.context import Platform
from taskyard.documents import to_document
from taskyard.jobs.states import JobStatus
from taskyard.overview import SPANS, overview
from taskyard.scheduler import ticks
from taskyard.stats.histogram import bucket
from taskyard.stats.rollup import HOUR, MINUTE, TEN_MINUTES, Rollup, floor
from taskyard.store.client import Store
from tests import factories
from tests.conftest import TestClock

Tick = Callable[[str], None]


@pytest.fixture(autouse=True)
def _no_minute_ends_meanwhile(clock: TestClock) -> None:
    clock.advance((80 - clock.now().second) % 60)


def ended(
    store: Store, at: datetime, status: JobStatus, *, wait_ms: int = 0, run_ms: int = 0
) -> None:
    """Store a job that ended at an instant."""
    started = at - timedelta(milliseconds=run_ms)
    document = to_document(factories.job_in(status)) | {"completedAt": at}
    if "startedAt" in document:
        document["startedAt"] = started
    document["queuedAt"] = document["createdAt"] = started - timedelta(milliseconds=wait_ms)
    store.database["jobs"].insert_one(document)


def minutes(store: Store, clock: TestClock) -> dict[datetime, Rollup]:
    now = clock.now()
    found = store.stats.read(MINUTE, now - timedelta(hours=26), now + MINUTE)
    return {rollup.at: rollup for rollup in found}


def test_what_ended_is_counted_in_its_minute_by_state_wait_and_run(
    store: Store, clock: TestClock, tick: Tick
) -> None:
    this = floor(clock.now(), MINUTE)
    for n, status in enumerate([JobStatus.COMPLETED, JobStatus.COMPLETED, JobStatus.FAILED]):
        ended(store, this - timedelta(seconds=30), status, wait_ms=40 + n, run_ms=3000)
    ended(store, this - timedelta(seconds=90), JobStatus.CANCELLED)
    tick("statistics")
    found = minutes(store, clock)
    last, before = found[this - MINUTE], found[this - 2 * MINUTE]
    assert (last.completed, last.failed, last.cancelled) == (2, 1, 0)
    assert dict(last.wait) == {bucket(41): 3}
    assert dict(last.run) == {bucket(3000): 3}
    assert last.submitted + before.submitted == 4
    assert (before.cancelled, dict(before.wait), dict(before.run)) == (1, {}, {})


def test_counting_again_changes_nothing_and_late_writes_are_counted(
    store: Store, clock: TestClock, tick: Tick
) -> None:
    at = floor(clock.now(), MINUTE) - timedelta(seconds=30)
    ended(store, at, JobStatus.COMPLETED)
    for _ in range(3):
        tick("statistics")
    assert sum(r.completed for r in minutes(store, clock).values()) == 1
    ended(store, at, JobStatus.COMPLETED)
    clock.advance(60)
    tick("statistics")
    assert sum(r.completed for r in minutes(store, clock).values()) == 2


@pytest.mark.parametrize("grace_seconds", [600, 7 * 24 * 3600])
def test_an_end_that_was_told_as_late_as_it_may_be_is_counted(
    store: Store, clock: TestClock, with_settings: Callable[..., Platform], grace_seconds: float
) -> None:
    """An end is reported once the job's output is delivered, which may take the grace period."""
    platform = with_settings(finish_grace_seconds=grace_seconds)
    at = clock.now()
    for _ in range(20):
        ticks.run(platform, "statistics")
        clock.advance(30)
    ended(store, at, JobStatus.COMPLETED)
    ticks.run(platform, "statistics")
    assert sum(r.completed for r in minutes(store, clock).values()) == 1


def test_after_an_outage_nothing_is_missing(store: Store, clock: TestClock, tick: Tick) -> None:
    tick("statistics")
    for hours in range(1, 6):
        ended(store, clock.now() + timedelta(hours=hours), JobStatus.COMPLETED)
    clock.advance(5.5 * 3600)
    for _ in range(3):
        tick("statistics")
    assert sum(r.completed for r in minutes(store, clock).values()) == 5
    now = clock.now()
    for step in (TEN_MINUTES, HOUR):
        kept = store.stats.read(step, now - timedelta(hours=26), now)
        assert sum(r.completed for r in kept) == 5, step


def test_queue_and_workers_are_looked_at(
    platform: Platform, store: Store, clock: TestClock, tick: Tick
) -> None:
    now = clock.now()
    facts = {"hostname": "h", "kind": "celery", "bootId": "b", "cpuCount": 4, "ramTotalMb": 1024}
    store.workers.register("w1", facts, now=now)
    store.jobs.submit([factories.running_job("w1", required_cpu=3, now=now)])
    store.jobs.submit([factories.queued_job(now=now - timedelta(seconds=n)) for n in (5, 90)])
    tick("statistics")
    tick("statistics")
    seen = minutes(store, clock)[floor(now, MINUTE)]
    assert (seen.samples, seen.held, seen.queued) == (2, 2, 2)
    assert seen.utilisation == 0.75
    assert 90_000 <= seen.oldest_wait_ms < 150_000


@pytest.mark.parametrize("name", SPANS)
def test_an_overview_of_any_span_has_its_steps_and_totals(
    platform: Platform, store: Store, clock: TestClock, tick: Tick, name: str
) -> None:
    span = SPANS[name]
    ended(store, clock.now() - timedelta(minutes=3), JobStatus.COMPLETED, wait_ms=10, run_ms=100)
    ended(store, clock.now() - timedelta(minutes=2), JobStatus.FAILED, wait_ms=10, run_ms=100)
    tick("statistics")
    found = overview(platform, span)
    assert len(found.points) == span.length // span.shown + 1
    assert (found.total.completed, found.total.failed) == (1, 1)
    assert found.failure_rate == 0.5
    assert found.throughput_per_second == pytest.approx(2 / span.length.total_seconds(), rel=0.1)


def test_counting_reads_the_index_and_no_job(store: Store, clock: TestClock) -> None:
    now = clock.now()
    for n in range(50):
        ended(store, now - timedelta(seconds=n), JobStatus.COMPLETED)
    store.database.command("profile", 2)
    store.stats.count(floor(now, MINUTE) - 5 * MINUTE, floor(now, MINUTE) + MINUTE)
    store.database.command("profile", 0)
    queries = list(store.database["system.profile"].find({"ns": f"{store.database.name}.jobs"}))
    store.database["system.profile"].drop()
    assert len(queries) == 2
    for query in queries:
        assert query["docsExamined"] == 0, query
        assert query["keysExamined"] <= 52, query


def test_durations_are_read_as_earlier_versions_kept_them(store: Store, clock: TestClock) -> None:
    at = floor(clock.now(), HOUR)
    counted = Rollup(at=at, completed=3, wait={4: 1, 7: 2}, run={20: 3})
    store.stats.save(HOUR, [counted])
    until = at + HOUR
    assert store.stats.read(HOUR, at, until) == [counted]
    pairs = {"wait": [[4, 1], [7, 2]], "run": [[20, 3]]}
    store.database["stats"].update_one({"_id.at": at}, {"$set": pairs})
    assert store.stats.read(HOUR, at, until) == [counted]
