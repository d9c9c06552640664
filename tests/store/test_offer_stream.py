"""The stream of offers, on a real server: what it delivers, and in which order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect

from taskyard.documents import to_document
from taskyard.jobs.model import Job
from taskyard.store import mailboxes
from taskyard.store.client import Store
from taskyard.store.mailboxes import Mailboxes
from taskyard.store.workers import WorkerStore
from taskyard.workers.model import Worker
from tests import factories
from tests.factories import NOW
from tests.helpers import eventually


class Listener:
    """Records the calls of the stream in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def offer(self, job: Job) -> None:
        self.told.append(job.job_id)

    def look(self) -> None:
        self.told.append("look")

    def know(self, worker: Worker | None) -> None:
        self.told.append("drained" if worker and worker.draining else "free" if worker else "-")
        assert self.may_go_on.wait(20)


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


def test_a_job_is_told_of_before_its_submit_returns_and_heard_of_once_it_is_there(
    store: Store, listener: Listener
) -> None:
    job = factories.queued_job(offered_to="w1")
    Mailboxes(store.database).offer([("w1", "never-inserted"), ("w1", job.job_id)])
    store.database["jobs"].insert_one(to_document(job))
    eventually(lambda: job.job_id in listener.told)
    assert listener.told == ["free", "look", job.job_id]


def test_jobs_of_a_list_are_told_of_too(store: Store, listener: Listener) -> None:
    jobs = [factories.queued_job(offered_to="w1") for _ in range(20)]
    store.jobs.submit(jobs)
    eventually(lambda: len(listener.told) == 22)
    assert listener.told[2:] == sorted(job.job_id for job in jobs)


def test_a_job_that_is_queued_no_more_is_not_offered(store: Store, listener: Listener) -> None:
    gone = factories.running_job("w2")
    store.jobs.submit([gone])
    job = factories.queued_job(offered_to="w1")
    Mailboxes(store.database).offer([("w1", gone.job_id)])
    store.jobs.submit([job])
    eventually(lambda: job.job_id in listener.told)
    assert listener.told == ["free", "look", job.job_id]


def test_an_agent_reads_itself_now_and_then_as_a_note_may_be_lost(
    store: Store, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskyard.store.offers._KNOWN_SECONDS", 0.0)
    store.database["workers"].update_one({"_id": "w1"}, {"$set": {"draining": True}})
    eventually(lambda: "drained" in listener.told)


def test_who_is_too_far_behind_its_mailbox_looks_anew(store: Store, listener: Listener) -> None:
    """MongoDB ends a cursor that stands where a capped collection was overwritten."""
    listener.may_go_on.clear()
    Mailboxes(store.database).tell(["w1"])
    eventually(lambda: len(listener.told) == 3)
    # Not by ``tell``, which gives up after half a second.
    store.database[mailboxes._box_of("w1")].insert_many([{"to": "w1"} for _ in range(10_000)])
    listener.may_go_on.set()
    eventually(lambda: listener.told.count("look") == 2)
    job = factories.queued_job(offered_to="w1")
    store.jobs.submit([job])
    eventually(lambda: job.job_id in listener.told)


def test_a_note_that_cannot_be_left_keeps_no_job_from_being_submitted(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is not sent again by the driver, as the insert of the job is."""

    def away(*_: object, **__: object) -> None:
        raise AutoReconnect

    with monkeypatch.context() as patched:
        patched.setattr(Database, "get_collection", away)
        single, *others = (factories.queued_job(offered_to="w1") for _ in range(3))
        store.jobs.submit([single])
        store.jobs.submit(others)
        store.workers.register("w1", {"kind": "celery", "bootId": "b1"}, now=NOW)
    assert all(store.jobs.find(job.job_id) for job in (single, *others))
    assert capsys.readouterr().err.count("offers.note_failed") == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda workers: workers.drain("w1", draining=True, now=NOW),
        lambda workers: workers.soft_delete("w1", now=NOW),
        lambda workers: workers.register("w1", {"kind": "celery", "bootId": "b2"}, now=NOW),
        lambda workers: workers.reserve({"w1": "job-1"}, {"w1": None}),
        lambda workers: workers.record_failure(
            "w1", reason="full", now=NOW, cooldown=timedelta(seconds=60)
        ),
    ],
)
def test_an_agent_hears_of_what_changes_what_it_may_take(
    store: Store, listener: Listener, change: Callable[[WorkerStore], Any]
) -> None:
    change(store.workers)
    eventually(lambda: len(listener.told) == 3, timeout_seconds=2.5)


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
    store.database["jobs"].insert_one({"_id": "odd", "status": "QUEUED"})
    Mailboxes(store.database).offer([("w1", "odd")])
    eventually(lambda: listener.told[2:] == ["-", "free", "look"])
    assert "offers.failed" in capsys.readouterr().err
    job = factories.queued_job(offered_to="w1")
    store.jobs.submit([job])
    eventually(lambda: job.job_id in listener.told)
