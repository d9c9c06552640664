"""A poll by an HTTP agent while other agents poll too."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from taskyard import ids, operations
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.transition import Transition
from taskyard.scheduler import polling
from taskyard.store.jobs import JobStore
from taskyard.store.live import LiveJobs
from taskyard.workers.model import Worker

QUEUED = 20


@pytest.fixture
def job_ids(platform: Platform) -> list[str]:
    return list(operations.submit(platform, [{"command": "true"}] * QUEUED, by="app"))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs of all transitions that were tried, in order."""
    names: list[str] = []
    apply = JobStore.apply

    def counted(self: JobStore, transition: Transition) -> Job | None:
        names.append(transition.job_id)
        return apply(self, transition)

    monkeypatch.setattr(JobStore, "apply", counted)
    return names


def registered(platform: Platform, worker_id: str) -> Worker:
    facts = {"kind": "http", "bootId": "b", "cpuCount": QUEUED, "ramTotalMb": 65_536}
    return platform.store.workers.register(worker_id, facts, now=platform.store.clock.now())


def others_take_meanwhile(platform: Platform, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Have another worker claim the first jobs right after the queue is next read."""
    other, read = registered(platform, "other"), LiveJobs.first

    def first(self: LiveJobs, shapes: Sequence[str], limit: int) -> list[Job]:
        found, taken = (read(self, shapes, many) for many in (limit, count))
        monkeypatch.setattr(LiveJobs, "first", read)
        at = platform.moment()
        platform.store.jobs.apply_all(
            [
                lifecycle.claim(
                    job,
                    worker=other,
                    lease_id=ids.lease(),
                    at=at,
                    lease_until=at.now + timedelta(seconds=30),
                )
                for job in taken
            ]
        )
        return found

    monkeypatch.setattr(LiveJobs, "first", first)


def test_who_loses_one_to_another_does_not_try_for_all_that_others_have_taken(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    job_ids: list[str],
    tried: list[str],
) -> None:
    worker = registered(platform, "w1")
    others_take_meanwhile(platform, monkeypatch, QUEUED)
    assert polling.poll(platform.store, platform.settings, worker) is None
    assert tried == job_ids[:1]


def test_who_loses_one_gets_one_of_the_first_that_are_left(
    platform: Platform,
    monkeypatch: pytest.MonkeyPatch,
    job_ids: list[str],
    tried: list[str],
) -> None:
    worker = registered(platform, "w1")
    others_take_meanwhile(platform, monkeypatch, QUEUED // 2)
    claimed = polling.poll(platform.store, platform.settings, worker)
    assert claimed is not None
    assert claimed.job_id in job_ids[QUEUED // 2 : QUEUED // 2 + 2]
    assert tried == [job_ids[0], claimed.job_id]


def test_but_none_of_a_lower_priority_before_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [{"command": "true", "priority": priority} for priority in (5, 9, 5, 9)]
    job_ids = list(operations.submit(platform, wanted, by="app"))
    worker = registered(platform, "w1")
    others_take_meanwhile(platform, monkeypatch, 1)
    # The choice among jobs is random; this makes it certain.
    monkeypatch.setattr("random.choice", lambda jobs: jobs[-1])
    claimed = polling.poll(platform.store, platform.settings, worker)
    assert claimed is not None
    assert claimed.job_id == job_ids[3]
