"""Stores on two servers: the tests that mongomock can run use it and the real mongod."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import mongomock
import pytest

from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.store.client import Store
from tests.conftest import TestClock


@pytest.fixture(params=["mongomock", "mongod"])
def any_store(request: pytest.FixtureRequest) -> Store:
    """A store on mongomock, then one on the real mongod."""
    if request.param == "mongod":
        real: Store = request.getfixturevalue("store")
        return real
    fake: Any = mongomock.MongoClient(tz_aware=True)
    clock = TestClock(lambda: datetime(2026, 11, 24, tzinfo=UTC))
    # mongomock has no sessions, and our writes need none. What it cannot run: renewals and bulk
    # assignments (update pipelines, bulk writes), the feed (change streams).
    return store_client.build(fake, Settings(), feed_uri="", clock=clock)


def stored(store: Store, job: Job) -> Job:
    """Submit the job and return it as it is read back."""
    store.jobs.submit([job])
    return store.jobs.get(job.job_id)
