"""What a worker that is stopped gives back, and when."""

from __future__ import annotations

import signal
from itertools import product

import pytest

from tests.broker.conftest import OpenSite
from tests.broker.site import Document, Site, Worker, wait

#: So long that nothing here comes back by the end of a lease.
LEASE_SECONDS = 600

SHAPES = list(product(("prefork", "threads", "solo"), (False, True)))
WAITING = [f"waits{number}" for number in range(6)]


@pytest.fixture
def site(open_site: OpenSite) -> Site:
    return open_site(lease_seconds=LEASE_SECONDS)


def start_occupied(site: Site, pool: str, blocking: bool) -> Worker:
    """A worker that runs one task and has prefetched of the others what its shape prefetches."""
    worker = site.start(
        pool=pool, blocking=blocking, concurrency=1, worker_prefetch_multiplier=4
    ).await_ready()
    site.send("hold", "running")
    wait(lambda: site.told() == ["running"], lambda: worker.log)
    for key in WAITING:
        site.send("note", key)
    # Solo runs on the loop itself; a blocking prefork worker waits for a slot with one in hand.
    prefetched = 1 if pool == "solo" else 2 if blocking and pool == "prefork" else 4
    wait(lambda: len(held(site)) >= prefetched, site.messages)
    return worker


def held(site: Site) -> list[Document]:
    """Messages that somebody leases."""
    return [message for message in site.messages() if message["lease"]]


def check_nothing_is_lost(site: Site, worker: Worker) -> None:
    """Each task ended and is gone, or waits for another worker, not for a lease to end."""
    ended = [*site.told("end"), *(key for key in site.told() if key in WAITING)]
    left = site.messages()
    assert len(ended) + len(left) == 7, (ended, left, worker.log)
    assert not held(site)


@pytest.mark.parametrize(("pool", "blocking"), SHAPES)
def test_a_warm_stop_gives_back_at_once_what_was_not_started(
    site: Site, pool: str, blocking: bool
) -> None:
    """The running task goes on meanwhile, and is acknowledged."""
    worker = start_occupied(site, pool, blocking)
    worker.signal(signal.SIGTERM)
    if not (blocking and pool == "prefork"):  # which has its hands full until the slot is free
        # Python's thread pool keeps a name for the last one it cancels while it waits.
        kept = 2 if pool == "threads" else 1
        wait(lambda: len(held(site)) <= kept, lambda: (site.messages(), worker.log))
        waiting = [message for message in site.messages() if not message["lease"]]
        assert {message["deliveries"] for message in waiting} == {0}
    assert worker.process.poll() is None
    site.open("running")
    worker.await_end()
    assert site.told("end") == ["running"]
    check_nothing_is_lost(site, worker)


# Not solo: there Celery raises NotImplementedError into the running task, which thereby fails.
@pytest.mark.parametrize(("pool", "blocking"), SHAPES[:4])
def test_a_cold_stop_loses_nothing(site: Site, pool: str, blocking: bool) -> None:
    worker = start_occupied(site, pool, blocking)
    worker.signal(signal.SIGQUIT)
    if pool != "prefork":  # nothing ends a thread from outside
        site.open("running")
    worker.await_end()
    check_nothing_is_lost(site, worker)
    if pool == "prefork":
        assert len(site.messages()) == 7
