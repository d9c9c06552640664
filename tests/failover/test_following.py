"""Following a job while the database is away: the stream waits, and the job is not changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import pytest

from taskyard.api import execute
from taskyard.context import Platform
from taskyard.follow import Seen, follow
from tests import factories
from tests.failover.conftest import Fail
from tests.failover.test_verbs import FAULTS


def begun(platform: Platform) -> tuple[str, Iterator[Seen]]:
    """Return a job's id and a follower that has seen the job once."""
    job = factories.queued_job(now=platform.store.clock.now())
    platform.store.jobs.submit([job])
    seen = follow(platform, job.job_id)
    assert next(seen).job.job_id == job.job_id
    return job.job_id, seen


def test_a_follower_that_has_begun_waits_for_the_database(platform: Platform, fail: Fail) -> None:
    _, seen = begun(platform)
    fail(["find"], times=2, collection="jobs", **FAULTS["conflict"])
    assert all(one.job.status == "QUEUED" for one in islice(seen, 4))


def test_a_follower_that_has_not_begun_is_told(platform: Platform, fail: Fail) -> None:
    job_id, _ = begun(platform)
    fail(["find"], collection="jobs", **FAULTS["conflict"])
    with pytest.raises(Exception, match="failpoint"):
        next(follow(platform, job_id))


def test_a_direct_execution_is_not_cancelled_for_an_outage(platform: Platform, fail: Fail) -> None:
    job_id, _ = begun(platform)
    text = execute._live(platform, job_id, "me", None)
    next(text)
    fail(["find"], times=2, collection="jobs", **FAULTS["conflict"])
    assert "".join(islice(text, 3)) == ""
    assert not platform.store.jobs.get(job_id).cancel_requested
