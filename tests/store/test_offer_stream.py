"""The stream of offers, on a real server: what it delivers, and in which order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskyard.jobs.model import Job
from taskyard.store.client import Store
from taskyard.workers.model import Worker
from tests import factories
from tests.factories import NOW
from tests.helpers import eventually


class Listener:
    """Records the calls of the stream in order."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def offer(self, job: Job) -> None:
        self.told.append(job.job_id)

    def look(self) -> None:
        self.told.append("look")

    def know(self, worker: Worker | None) -> None:
        self.told.append("drained" if worker and worker.draining else "free" if worker else "-")


@pytest.fixture
def listener(store: Store) -> Iterator[Listener]:
    store.workers.register("w1", {"kind": "celery", "bootId": "b1"}, now=NOW)
    made = Listener()
    stop = store.offers.listen("w1", made)
    eventually(lambda: "look" in made.told)
    yield made
    stop()


def test_an_agent_knows_itself_before_it_looks(listener: Listener) -> None:
    assert listener.told == ["free", "look"]


def test_a_drain_is_known_before_a_job_that_was_submitted_after_it(
    store: Store, listener: Listener
) -> None:
    store.workers.drain("w1", draining=True, now=NOW)
    job = factories.queued_job(offered_to="w1")
    store.jobs.submit([job])
    eventually(lambda: job.job_id in listener.told)
    assert listener.told == ["free", "look", "drained", job.job_id]


def test_what_concerns_others_is_not_told(store: Store, listener: Listener) -> None:
    store.workers.register("w2", {"kind": "celery", "bootId": "b1"}, now=NOW)
    store.jobs.submit([factories.queued_job(), factories.queued_job(offered_to="w2")])
    job = factories.queued_job(offered_to="w1")
    store.jobs.submit([job])
    eventually(lambda: job.job_id in listener.told)
    assert listener.told == ["free", "look", job.job_id]


def test_a_job_that_cannot_be_read_is_passed_over_and_those_behind_it_are_told(
    store: Store, listener: Listener, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another version of Taskyard may store one, which must not end this process's offers."""
    store.database["jobs"].insert_one({"_id": "odd", "offeredTo": "w1"})
    eventually(lambda: listener.told[2:] == ["-", "free", "look"])
    assert "offers.failed" in capsys.readouterr().err
    job = factories.queued_job(offered_to="w1")
    store.jobs.submit([job])
    eventually(lambda: job.job_id in listener.told)
