"""Ticks that are killed between any two of their writes: the next tick completes their work."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest

from taskyard.agent.reporting import Reporter
from taskyard.context import Platform
from taskyard.documents import to_document
from taskyard.jobs.model import lease_of
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Outcome
from taskyard.scheduler import ticks
from taskyard.scheduler.assignment import LOCK_HOLD
from taskyard.stats.rollup import HOUR, MINUTE, TEN_MINUTES
from taskyard.store.client import Store
from tests import factories
from tests.conftest import TestClock
from tests.helpers import before_each_write, empty

DAY_SECONDS = 24 * 3600


class Killed(BaseException):
    """The death of a tick, which no part of it catches."""


class CutOff:
    """Lets a number of writes through, and raises Killed at the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        before_each_write(monkeypatch, self._count)

    def ends(self, platform: Platform, name: str, after: int) -> bool:
        """Whether the tick ends within ``after`` writes; if not, it is killed at the next."""
        self.left = after
        try:
            ticks.run(platform, name)
        except Killed:
            return False
        finally:
            self.left = None
        return True

    def _count(self, _collection: str) -> None:
        if self.left is not None:
            if not self.left:
                raise Killed
            self.left -= 1


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> CutOff:
    return CutOff(monkeypatch)


@pytest.fixture
def everywhere(
    platform: Platform, clock: TestClock, cut_off: CutOff
) -> Callable[[str, Callable[[], Callable[[], None]]], None]:
    """Kills a tick after 0, 1, 2, ... writes, each time on a newly prepared platform.

    ``prepare`` returns a check that the ticks which follow make up for the killed one.
    """

    def run(name: str, prepare: Callable[[], Callable[[], None]]) -> None:
        ended, after = False, 0
        while not ended:
            empty(platform.store.database)
            made_up = prepare()
            ended = cut_off.ends(platform, name, after)
            made_up()
            after += 1
        assert after > 1, "it writes nothing"

    return run


Everywhere = Callable[[str, Callable[[], Callable[[], None]]], None]


def register(store: Store, worker_id: str, now: datetime) -> None:
    facts = {"hostname": "h", "kind": "celery", "bootId": worker_id, "cpuCount": 4}
    store.workers.register(worker_id, {**facts, "ramTotalMb": 8192}, now=now)


def test_statistics_that_catch_up(
    platform: Platform, clock: TestClock, everywhere: Everywhere
) -> None:
    store = platform.store

    def prepare() -> Callable[[], None]:
        began = clock.now()
        ticks.run(platform, "statistics")
        for minutes in range(5, 95, 10):
            at = began + timedelta(minutes=minutes)
            job = to_document(factories.job_in(JobStatus.COMPLETED)) | {"completedAt": at}
            store.database["jobs"].insert_one(job)
        clock.advance(100 * 60)

        def made_up() -> None:
            for _ in range(2):
                clock.advance(30)
                ticks.run(platform, "statistics")
            for step in (MINUTE, TEN_MINUTES, HOUR):
                kept = store.stats.read(step, began - timedelta(hours=1), clock.now())
                assert sum(rollup.completed for rollup in kept) == 9, step

        return made_up

    everywhere("statistics", prepare)


def test_a_sweep(platform: Platform, clock: TestClock, everywhere: Everywhere) -> None:
    store = platform.store

    def prepare() -> Callable[[], None]:
        now = clock.now()
        register(store, "w1", now)
        job = factories.running_job("w1", now=now)
        store.jobs.submit([job])
        for _ in range(8):
            ticks.run(platform, "timeouts")
            clock.advance(2)

        def made_up() -> None:
            clock.advance(2)
            ticks.run(platform, "timeouts")
            assert store.jobs.get(job.job_id).status is JobStatus.QUEUED
            assert store.workers.get("w1").suspended_at is not None

        return made_up

    everywhere("timeouts", prepare)


def test_health(platform: Platform, clock: TestClock, everywhere: Everywhere) -> None:
    store = platform.store

    def prepare() -> Callable[[], None]:
        for worker_id in ("silent", "failed"):
            register(store, worker_id, clock.now())
        rest = timedelta(seconds=30)
        store.workers.record_failure("failed", reason="disk", now=clock.now(), cooldown=rest)
        clock.advance(60)
        store.workers.heartbeat("failed", {}, now=clock.now())

        def made_up() -> None:
            clock.advance(5)
            ticks.run(platform, "health")
            assert store.workers.get("silent").health == "OFFLINE"
            failed = store.workers.get("failed")
            assert (failed.health, failed.cooldown_until) == ("OK", None)

        return made_up

    everywhere("health", prepare)


def test_a_pass(platform: Platform, clock: TestClock, everywhere: Everywhere) -> None:
    store = platform.store

    def prepare() -> Callable[[], None]:
        now = clock.now()
        for worker_id in ("w1", "w2"):
            register(store, worker_id, now)
        long_ago = now - timedelta(hours=1)
        small = factories.queued_job(now=now, required_cpu=1)
        large, other = (factories.queued_job(now=long_ago, required_cpu=cpu) for cpu in (4, 3))
        held = [factories.running_job(name, required_cpu=2, now=now) for name in ("w1", "w2")]
        store.jobs.submit([small, large, other, *held])

        def made_up() -> None:
            clock.advance(LOCK_HOLD.total_seconds() + 1)
            ticks.run(platform, "assignment")
            assert store.jobs.get(small.job_id).status is JobStatus.ASSIGNED
            kept_for = [worker.reserved_for for worker in store.workers.listed()]
            assert sorted(kept_for, key=str) == [None, large.job_id]

        return made_up

    everywhere("assignment", prepare)


def test_retention(platform: Platform, clock: TestClock, everywhere: Everywhere) -> None:
    store = platform.store

    def saved() -> str:
        body = io.BytesIO(b"x" * 1000)
        keep = timedelta(days=1)
        return store.files.save(body, filename="a", cap_bytes=10**6, keep=keep).file_id

    def prepare() -> Callable[[], None]:
        now = clock.now()
        register(store, "gone", now)
        job = factories.running_job(now=now)
        store.jobs.submit([job])
        store.output.append(job, "stdout", "hello", seq=0, now=now)
        left = Outcome(fields={"resultFileId": saved()})
        Reporter(platform).finish(lease_of(job), left, at=platform.moment())
        unused = saved()
        for pieces in ("files.chunks", "files.begun"):
            store.database[pieces].insert_one({"_id": "half", "files_id": "half", "at": now})
        clock.advance(31 * DAY_SECONDS)

        def made_up() -> None:
            ticks.run(platform, "retention")
            assert store.files.find(unused) is None
            names = ("jobs", "output", "files.files", "files.chunks", "files.begun", "workers")
            for name in names:
                assert store.database[name].count_documents({}) == 0, name

        return made_up

    everywhere("retention", prepare)
