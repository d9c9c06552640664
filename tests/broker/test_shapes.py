"""Every pool under both of Celery's loops: tasks run, in order, when due, and are acknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import product

import pytest

from tests.broker.celery_process import wait
from tests.broker.conftest import OpenSite
from tests.broker.site import Site, Worker

QUEUES = ("celery", "a", "b")


SHAPES = list(product(("prefork", "threads", "solo"), (False, True)))


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def worker(open_site: OpenSite, request: pytest.FixtureRequest) -> Iterator[Worker]:
    """One worker for all tests of its pool and loop."""
    pool, blocking = request.param
    started = open_site().start(pool=pool, blocking=blocking, queues=",".join(QUEUES))
    yield started.await_ready()
    started.kill()


@pytest.fixture
def site(worker: Worker) -> Site:
    return worker.site


def test_the_loop_is_the_one_asked_for(worker: Worker, site: Site) -> None:
    loop = "synloop" if worker.blocking else "asynloop"
    wait(lambda: site.told(loop) == [worker.hostname], site.lines)


def occupy(worker: Worker, key: str) -> list[str]:
    """Fill the worker's slots with holding tasks, and return their keys; opening one frees one."""
    keys = [f"{key}{number}" for number in range(worker.slots)]
    for held in keys:
        worker.site.send("hold", held)
    wait(lambda: set(keys) <= set(worker.site.told()), lambda: worker.log)
    return keys


def test_many_tasks_run_once_each_and_leave_nothing(site: Site) -> None:
    for number in range(50):
        site.send("note", f"many{number}")
    site.await_empty()
    runs = site.runs("many")
    assert len(runs) == 50
    assert set(runs.values()) == {1}
    assert not site.dead_letters()


def test_what_is_due_later_runs_later_and_what_expired_never(worker: Worker, site: Site) -> None:
    (first, *others) = occupy(worker, "later")
    site.send("note", "expired", expires=0.5)
    published = time.time()
    site.send("note", "countdown", countdown=1)
    site.send("again", "again", 1)
    site.send("note", "now")
    site.await_expiry()
    site.open(first)
    wait(lambda: {"now", "countdown"} <= set(site.told()), lambda: worker.log)
    wait(lambda: "again" in site.told("try1"), lambda: worker.log)
    for held in others:
        site.open(held)
    told = site.told()
    (started,) = [line["at"] for line in site.lines() if line["key"] == "countdown"]
    assert started >= published + 0.99  # the server's clock counts whole milliseconds
    assert site.told("try0") == ["again"]
    assert "expired" not in told


def test_a_backlog_runs_by_priority_then_by_age(worker: Worker, site: Site) -> None:
    (first, *others) = occupy(worker, "priority")
    for priority in (3, 0, 9, 6, 1, 8, 5, 2, 7, 4):
        site.send("note", f"p{priority}", priority=priority)
    site.send("note", "p9later", priority=9)
    site.open(first)
    wait(lambda: len(site.runs("p9") + site.runs("p0")) == 3, lambda: worker.log)
    for held in others:
        site.open(held)
    order = [key for key in site.told() if key in {f"p{n}" for n in range(10)} | {"p9later"}]
    assert order == ["p9", "p9later", *(f"p{n}" for n in range(8, -1, -1))]


def test_queues_take_turns(worker: Worker, site: Site) -> None:
    """The stream may report the second queue a little after there is room for the first."""
    (first, *others) = occupy(worker, "turns")
    for number in range(30):
        site.send("work", f"a{number}", 0.02, queue="a")
    for number in range(5):
        site.send("work", f"b{number}", 0.02, queue="b")
    site.open(first)
    wait(lambda: {"a29", "b4"} <= set(site.told()), lambda: worker.log)
    for held in others:
        site.open(held)
    told = site.told()
    assert told.index("b4") < told.index("a25")
