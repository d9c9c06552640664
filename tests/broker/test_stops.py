"""Which messages a worker gives back when it is stopped, and when."""

from __future__ import annotations

import signal
from itertools import product

import pytest

from tests.broker.celery_process import wait
from tests.broker.conftest import OpenSite
from tests.broker.site import Document, Site, Worker

#: So long that no message here comes back because its lease has ended.
LEASE_SECONDS = 600

Shape = tuple[str, bool]

SHAPES: list[Shape] = list(product(("prefork", "threads", "solo"), (False, True)))
WAITING = [f"waits{number}" for number in range(6)]


def stopped(open_site: OpenSite, shapes: list[Shape], number: int) -> dict[Shape, Worker]:
    """Start a worker of each shape, and tell all to stop at once while each runs a task."""
    workers = {
        (pool, blocking): open_site(lease_seconds=LEASE_SECONDS).start(
            pool=pool, blocking=blocking, concurrency=1, worker_prefetch_multiplier=4
        )
        for pool, blocking in shapes
    }
    for shape, worker in workers.items():
        occupy(worker.await_ready(), *shape)
    for worker in workers.values():
        worker.signal(number)
    return workers


def occupy(worker: Worker, pool: str, blocking: bool) -> None:
    """Have the worker run one task, and prefetch as many others as its pool and loop do."""
    site = worker.site
    site.send("hold", "running")
    wait(lambda: site.told() == ["running"], lambda: worker.log)
    for key in WAITING:
        site.send("note", key)
    # Solo runs tasks on the loop itself; a blocking prefork worker takes one and waits for a slot.
    prefetched = 1 if pool == "solo" else 2 if blocking and pool == "prefork" else 4
    wait(lambda: len(held(site)) >= prefetched, site.messages)


@pytest.fixture(scope="module")
def warm(open_site: OpenSite) -> dict[Shape, Worker]:
    return stopped(open_site, SHAPES, signal.SIGTERM)


# Without solo: there Celery raises NotImplementedError into the running task, which then fails.
COLD = SHAPES[:4]


@pytest.fixture(scope="module")
def cold(open_site: OpenSite) -> dict[Shape, Worker]:
    return stopped(open_site, COLD, signal.SIGQUIT)


def held(site: Site) -> list[Document]:
    """Return the messages that are leased."""
    return [message for message in site.messages() if message["lease"]]


def check_nothing_is_lost(site: Site, worker: Worker) -> None:
    """Check that each task has ended, or that its message waits and is not leased."""
    ended = [*site.told("end"), *(key for key in site.told() if key in WAITING)]
    left = site.messages()
    assert len(ended) + len(left) == 7, (ended, left, worker.log)
    assert not held(site)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_warm_stop_gives_back_at_once_what_was_not_started(
    warm: dict[Shape, Worker], shape: Shape
) -> None:
    """The running task goes on meanwhile, and is acknowledged."""
    worker, site = warm[shape], warm[shape].site
    pool, blocking = shape
    if not (blocking and pool == "prefork"):  # that one is blocked until its slot is free
        # While Python's thread pool waits, it keeps a reference to the last task it has cancelled.
        kept = 2 if pool == "threads" else 1
        wait(lambda: len(held(site)) <= kept, lambda: (site.messages(), worker.log))
        waiting = [message for message in site.messages() if not message["lease"]]
        assert {message["deliveries"] for message in waiting} == {0}
    assert worker.process.poll() is None
    site.open("running")
    worker.await_end()
    assert site.told("end") == ["running"]
    check_nothing_is_lost(site, worker)


@pytest.mark.parametrize("shape", COLD)
def test_a_cold_stop_loses_nothing(cold: dict[Shape, Worker], shape: Shape) -> None:
    worker, site = cold[shape], cold[shape].site
    pool, _ = shape
    if pool != "prefork":  # nothing ends a thread from outside
        site.open("running")
    worker.await_end()
    check_nothing_is_lost(site, worker)
    if pool == "prefork":
        assert len(site.messages()) == 7
