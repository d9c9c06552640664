"""Leases: which ones a worker's renewal extends, and until when."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from taskyard.jobs import lifecycle
from taskyard.jobs.model import lease_of
from taskyard.jobs.transition import Moment
from taskyard.store.client import Store
from tests import factories
from tests.conftest import TestClock
from tests.factories import LEASE, NOW
from tests.store.conftest import stored


def test_renewal_moves_the_lease_of_what_is_named_and_held(store: Store) -> None:
    mine, other = (stored(store, factories.running_job(w)) for w in ("w1", "w2"))
    # A start whose answer was lost: the agent does not run the job and does not name its lease.
    unheard = stored(store, factories.running_job("w1"))
    later = NOW + timedelta(seconds=5)
    leases = [lease_of(mine), lease_of(other), replace(lease_of(mine), lease_id="unknown")]
    held = store.leases.renew("w1", leases, now=later, lease=LEASE, grace=LEASE)
    assert [renewed.lease for renewed in held] == [lease_of(mine)]
    assert store.jobs.get(mine.job_id).lease_until == later + LEASE
    for job in (other, unheard):
        assert store.jobs.get(job.job_id).lease_until == job.lease_until


@pytest.mark.parametrize("kind", ["celery", "http"])
def test_a_lease_that_is_over_is_renewed_while_nobody_has_expired_it(
    store: Store, kind: str
) -> None:
    job = stored(store, factories.running_job(kind=kind))
    late = NOW + 4 * LEASE
    if kind == "celery":
        held = store.leases.renew("w1", [lease_of(job)], now=late, lease=LEASE, grace=LEASE)
    else:
        holder = factories.worker(kind="http")
        held = store.leases.renew_seen(holder, [job.job_id], now=late, lease=LEASE)
    assert [renewed.lease.job_id for renewed in held] == [job.job_id]
    assert store.jobs.get(job.job_id).lease_until == late + LEASE
    expired = lifecycle.expire(job, at=Moment(now=late))
    assert expired is not None
    assert store.jobs.apply(expired) is None, "the renewal was first"


def test_a_lease_that_was_expired_is_not_renewed(store: Store) -> None:
    job = stored(store, factories.running_job())
    late = NOW + LEASE + timedelta(seconds=1)
    expired = lifecycle.expire(job, at=Moment(now=late))
    assert expired is not None
    assert store.jobs.apply(expired)
    assert store.leases.renew("w1", [lease_of(job)], now=late, lease=LEASE, grace=LEASE) == []


def test_a_lease_that_has_reached_its_jobs_limit_is_over(store: Store) -> None:
    job = stored(store, factories.running_job(timeout_ms=10_000))
    limit = NOW + timedelta(seconds=10) + LEASE
    late = limit + timedelta(seconds=1)
    assert store.leases.renew("w1", [lease_of(job)], now=late, lease=LEASE, grace=LEASE) == []
    assert store.jobs.get(job.job_id).lease_until == limit


def test_a_lease_never_moves_back_nor_past_the_jobs_timeout(store: Store) -> None:
    job = stored(store, factories.running_job(timeout_ms=10_000))
    leases = [lease_of(job)]
    earlier = NOW - timedelta(seconds=100)
    store.leases.renew("w1", leases, now=earlier, lease=LEASE, grace=LEASE)
    assert store.jobs.get(job.job_id).lease_until == job.lease_until
    assert job.started_at is not None
    for _ in range(3):
        store.leases.renew("w1", leases, now=NOW, lease=timedelta(hours=1), grace=LEASE)
    limit = job.started_at + timedelta(seconds=10) + LEASE
    assert store.jobs.get(job.job_id).lease_until == limit


@pytest.mark.parametrize("how", ["renew", "renew_seen", "show_life"])
def test_a_lease_from_before_the_clock_was_set_back_is_one_from_now_on(
    store: Store, clock: TestClock, how: str
) -> None:
    """Otherwise its worker's loss would go unnoticed until the clock had caught up."""
    now = clock.now()
    kind = "celery" if how == "renew" else "http"
    job = stored(store, factories.running_job(now=now + timedelta(hours=1), kind=kind))
    if how == "renew":
        store.leases.renew("w1", [lease_of(job)], now=now, lease=LEASE, grace=LEASE)
    elif how == "renew_seen":
        holder = factories.worker(kind="http")
        store.leases.renew_seen(holder, [job.job_id], now=now, lease=LEASE)
    else:
        store.leases.show_life(job, now=now, lease=LEASE)
    assert store.jobs.get(job.job_id).lease_until == now + LEASE


def test_an_http_agent_renews_what_has_shown_life(store: Store) -> None:
    silent, lively = (stored(store, factories.running_job(kind="http")) for _ in range(2))
    later = NOW + timedelta(seconds=5)
    store.leases.renew_seen(factories.worker(kind="http"), [lively.job_id], now=later, lease=LEASE)
    assert store.jobs.get(lively.job_id).lease_until == later + LEASE
    assert store.jobs.get(silent.job_id).lease_until == silent.lease_until
