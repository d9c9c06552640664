"""Late writes of a Celery agent: refused, counted, and noted in the job's history."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import NetworkTimeout

from taskyard.agent import reporting
from taskyard.agent.admission import Capacity
from taskyard.agent.host import Host
from taskyard.agent.presence import Presence
from taskyard.agent.reporting import Reporter
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.transition import Moment, Outcome
from taskyard.store import together
from taskyard.store.chunks import Chunk
from taskyard.store.output import OutputStore
from tests import factories
from tests.conftest import TestClock
from tests.helpers import eventually

CHUNK = Chunk(seq=0, stream="stdout", data="late")

Say = Callable[[Reporter, Job], Any]


def _output(reporter: Reporter, job: Job) -> Any:
    return reporter.output(job, [CHUNK], total_bytes=4, truncated=False)


def _result(reporter: Reporter, job: Job) -> Any:
    return reporter.finish(lease_of(job), Outcome(), at=Moment(now=job.created_at))


def kinds(platform: Platform, job_id: str) -> list[str]:
    history = platform.store.jobs.get(job_id).history
    return [entry["reason"].split()[0] for entry in history if entry["verb"] == "refuse"]


def lose(platform: Platform, clock: TestClock, job: Job) -> None:
    """End the lease of a running job."""
    gone = lifecycle.expire(job, at=Moment(now=clock.now() + timedelta(hours=1)))
    assert gone is not None
    platform.store.jobs.apply(gone)


@pytest.fixture
def lost(platform: Platform, clock: TestClock, tick: Callable[[str], None]) -> Job:
    """A job as its agent knew it before the lease ended; by now it is queued again."""
    job = factories.running_job("w1", now=clock.now())
    platform.store.jobs.submit([job])
    tick("timeouts")
    for _ in range(10):
        clock.advance(2)
        tick("timeouts")
    assert platform.store.jobs.get(job.job_id).status == "QUEUED"
    return job


@pytest.mark.parametrize(
    ("say", "kind"),
    [
        (lambda reporter, job: reporter.start(lease_of(job)), "start"),
        (_output, "output"),
        (_result, "result"),
        (lambda reporter, job: reporter.release(lease_of(job), "drain"), "release"),
    ],
    ids=["start", "output", "result", "release"],
)
def test_a_late_write_is_refused_and_noted(
    platform: Platform, lost: Job, say: Say, kind: str
) -> None:
    reporter = Reporter(platform)
    assert say(reporter, lost) is None
    assert say(reporter, lost) is None
    assert kinds(platform, lost.job_id) == [kind]
    assert platform.store.jobs.get(lost.job_id).refused_writes == 2
    assert platform.store.counters.read()["refusedWrites"] == {kind: 2}
    assert platform.store.database["output"].count_documents({}) == 0


def test_a_result_whose_answer_was_lost_is_not_taken_for_a_late_one(
    platform: Platform, clock: TestClock
) -> None:
    job = factories.running_job(now=clock.now())
    platform.store.jobs.submit([job])
    reporter = Reporter(platform)
    assert _result(reporter, job) is not None
    assert _result(reporter, job) is None
    assert kinds(platform, job.job_id) == []
    assert platform.store.counters.read() == {}


def test_output_of_an_agent_that_was_stopped_while_it_stored_it_is_taken_back(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is stopped after it stored chunks and before it noted them; its lease ends."""
    job = factories.running_job(now=clock.now())
    platform.store.jobs.submit([job])
    reporter = Reporter(platform)
    first = [Chunk(seq=0, stream="stdout", data="in time")]
    assert reporter.output(job, first, total_bytes=7, truncated=False)
    store = OutputStore.store_all

    def store_and_sleep(self: OutputStore, *arguments: Any, **named: Any) -> None:
        store(self, *arguments, **named)
        lose(platform, clock, job)

    monkeypatch.setattr(OutputStore, "store_all", store_and_sleep)
    late = [Chunk(seq=1, stream="stdout", data="late")]
    assert reporter.output(job, late, total_bytes=11, truncated=False) is None
    assert [c.data for c in platform.store.output.read(job, attempt=1)] == ["in time"]
    assert kinds(platform, job.job_id) == ["output"]


def test_output_of_an_agent_that_was_stopped_before_it_sent_it_is_taken_back(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen in a chaos run: the agent woke up and sent its chunks, but the driver timed out, so
    that the next try found those chunks already stored.
    """
    job = factories.running_job(now=clock.now())
    platform.store.jobs.submit([job])
    store = OutputStore.store_all

    def sleep_and_store(self: OutputStore, *arguments: Any, **named: Any) -> None:
        monkeypatch.setattr(OutputStore, "store_all", store)
        lose(platform, clock, job)
        store(self, *arguments, **named)
        raise NetworkTimeout("timed out")

    monkeypatch.setattr(OutputStore, "store_all", sleep_and_store)
    monkeypatch.setattr(reporting, "RETRY_SECONDS", 0.01)
    assert Reporter(platform).output(job, [CHUNK], total_bytes=4, truncated=False) is None
    assert list(platform.store.output.read(job, attempt=1)) == []
    assert kinds(platform, job.job_id) == ["output"]


def test_output_that_was_counted_before_its_attempt_was_over_is_kept(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the note is lost, and the lease ends before the agent tries again."""
    job = factories.running_job(now=clock.now())
    platform.store.jobs.submit([job])
    put = OutputStore.put

    def put_and_sleep(self: OutputStore, *arguments: Any) -> None:
        monkeypatch.setattr(OutputStore, "put", put)
        put(self, *arguments)
        lose(platform, clock, job)
        raise NetworkTimeout("timed out")

    monkeypatch.setattr(OutputStore, "put", put_and_sleep)
    monkeypatch.setattr(reporting, "RETRY_SECONDS", 0.01)
    assert Reporter(platform).output(job, [CHUNK], total_bytes=4, truncated=False) is None
    assert [c.data for c in platform.store.output.read(job, attempt=1)] == ["late"]
    assert kinds(platform, job.job_id) == ["output"]


def test_output_that_is_stored_with_that_of_a_lost_attempt_is_stored_all_the_same(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, gone, fine = (factories.running_job(now=clock.now()) for _ in range(3))
    platform.store.jobs.submit([first, gone, fine])
    lose(platform, clock, gone)
    store, may_go_on, groups = OutputStore.store_all, threading.Event(), list[int]()

    def store_slowly(self: OutputStore, printed: Any, **named: Any) -> None:
        groups.append(len(printed))
        assert may_go_on.wait(20)
        store(self, printed, **named)

    monkeypatch.setattr(OutputStore, "store_all", store_slowly)
    monkeypatch.setattr(together, "PATIENCE_SECONDS", 20)
    reporter = Reporter(platform)
    with ThreadPoolExecutor(3) as threads:

        def output(job: Job) -> Future[bool | None]:
            return threads.submit(_output, reporter, job)

        said = [output(first)]
        eventually(lambda: groups)
        said += [output(gone), output(fine)]
        eventually(lambda: len(platform.store.output._put_soon._waiting) == 2)
        may_go_on.set()
        assert [each.result() for each in said] == [True, None, True]
    assert groups[1] == 2
    printed = [list(platform.store.output.read(job, attempt=1)) for job in (first, gone, fine)]
    assert printed == [[CHUNK], [], [CHUNK]]


class _Running:
    """An agent's jobs as presence sees them: one job, which runs until it is abandoned."""

    def __init__(self, job: Job) -> None:
        self.running = [lease_of(job)]

    def leases(self) -> list[Lease]:
        return list(self.running)

    def run_assigned(self, lease: Lease) -> None:
        raise AssertionError(lease)

    def extend(self, leases: Collection[Lease], until: float) -> None:
        assert leases == []

    def cancel(self, lease: Lease) -> None:
        raise AssertionError(lease)

    def give_back(self, reason: str) -> None:
        raise AssertionError(reason)

    def abandon(self, lease: Lease) -> None:
        self.running.remove(lease)


def test_a_heartbeat_for_a_lease_that_is_over_is_noted(platform: Platform, lost: Job) -> None:
    quick = dataclasses.replace(platform.settings, cancel_poll_seconds=0.05, max_jobs=1)
    capacity = Capacity(cpu_count=0.1, ram_total_mb=1, max_jobs=1)
    jobs = _Running(lost)
    presence = Presence(dataclasses.replace(platform, settings=quick), "w1", Host(), capacity, jobs)
    presence.start()
    eventually(lambda: kinds(platform, lost.job_id))
    presence.stop()
    assert kinds(platform, lost.job_id) == ["heartbeat"]
    assert jobs.running == []
    entry = platform.store.jobs.get(lost.job_id).history[-1]
    assert (entry["attempt"], entry["worker"]) == (1, "w1")
