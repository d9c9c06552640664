"""A task may run longer than its lease: the lease is renewed, whatever the pool does."""

from __future__ import annotations

from tests.broker.celery_process import wait
from tests.broker.conftest import OpenSite

LEASE_SECONDS = 1.0


def test_tasks_longer_than_their_lease_run_once(open_site: OpenSite) -> None:
    """Other workers have free slots, and would take a task at once if its lease ended."""
    site = open_site(lease_seconds=LEASE_SECONDS)
    workers = [site.start(pool=pool) for pool in ("prefork", "threads", "solo")]
    for worker in workers:
        worker.await_ready()
    keys = [f"long{number}" for number in range(4)]
    for key in keys:
        site.send("work", key, 4 * LEASE_SECONDS)
    wait(lambda: sorted(site.told("end")) == keys, site.lines)
    site.await_empty()
    assert set(site.runs("long").values()) == {1}
    assert not any("broker: " in worker.log for worker in workers)
