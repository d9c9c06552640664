"""How refused writes are recorded, and the counters."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment
from taskyard.store.client import Store
from taskyard.store.counters import CounterStore
from taskyard.store.refusals import RefusalStore
from tests import factories
from tests.conftest import Racing
from tests.factories import NOW
from tests.helpers import eventually

LATER = NOW + timedelta(hours=1)


def lost(store: Store, **fields: Any) -> tuple[Job, Lease]:
    """Return a job that was lost, and the lease under which it was lost."""
    running = factories.running_job(**fields)
    store.jobs.submit([running])
    expired = lifecycle.expire(running, at=Moment(now=LATER))
    assert expired is not None
    job = store.jobs.apply(expired)
    assert job is not None
    return job, lease_of(running)


def test_a_refusal_is_one_line_of_the_history_and_a_count(any_store: Store) -> None:
    before, old = lost(any_store)
    for _ in range(3):
        any_store.refusals.note(old, Write.RESULT, now=LATER)
    any_store.refusals.note(old, Write.OUTPUT, now=LATER)
    job = any_store.jobs.get(before.job_id)
    told = [(e["attempt"], e["worker"], e["reason"]) for e in job.history if e["verb"] == "refuse"]
    assert told == [
        (1, "w1", "result refused: the attempt is over"),
        (1, "w1", "output refused: the attempt is over"),
    ]
    assert job.refused_writes == 4
    assert any_store.counters.read()["refusedWrites"] == {"result": 3, "output": 1}


@pytest.mark.parametrize("max_retries", [0, 3])
def test_a_refusal_touches_nothing_else_not_even_of_an_ended_job(
    any_store: Store, max_retries: int
) -> None:
    before, old = lost(any_store, max_retries=max_retries)
    assert before.is_terminal == (max_retries == 0)
    any_store.refusals.note(old, Write.HEARTBEAT, now=LATER)
    job = any_store.jobs.get(before.job_id)
    assert job.history[:-1] == before.history
    assert dataclasses.replace(job, history=before.history, refused_writes=0) == before


def test_what_the_holder_says_is_not_noted(any_store: Store) -> None:
    job = factories.running_job()
    any_store.jobs.submit([job])
    any_store.refusals.note(lease_of(job), Write.HEARTBEAT, now=LATER)
    any_store.refusals.note(Lease(job_id="gone", worker_id="w1"), Write.RESULT, now=LATER)
    assert any_store.jobs.get(job.job_id) == job
    assert any_store.counters.read() == {}


def test_twenty_refusals_at_once_are_all_counted_and_told_of_once(
    store: Store, racing: Racing
) -> None:
    before, old = lost(store)
    racing(lambda: store.refusals.note(old, Write.RESULT, now=LATER), 20)
    job = store.jobs.get(before.job_id)
    assert [entry["verb"] for entry in job.history].count("refuse") == 1
    assert job.refused_writes == 20
    assert store.counters.read()["refusedWrites"] == {"result": 20}


def test_a_refusal_has_its_place_behind_a_move_that_came_in_between(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, old = lost(store)
    find = store.refusals._find

    def find_then_move(job_id: str) -> Job | None:
        monkeypatch.undo()
        job = find(job_id)
        cancel = lifecycle.cancel(before, by="op", reason=None, at=Moment(now=LATER))
        assert store.jobs.apply(cancel)
        return job

    monkeypatch.setattr(store.refusals, "_find", find_then_move)
    store.refusals.note(old, Write.RESULT, now=LATER)
    job = store.jobs.get(before.job_id)
    assert [entry["to"] for entry in job.history[-2:]] == ["CANCELLED", "CANCELLED"]
    assert job.history[-1]["verb"] == "refuse"


class _Away:
    """A collection whose server is away."""

    def with_options(self, **_: Any) -> _Away:
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        raise ServerSelectionTimeoutError("away")


def test_what_cannot_be_noted_or_counted_fails_nobody(store: Store) -> None:
    away: Any = {"jobs": _Away(), "counters": _Away()}
    before, old = lost(store)
    RefusalStore(away, store.counters).note(old, Write.RESULT, now=LATER)
    CounterStore(away).add({"passes": 1})
    RefusalStore(store.database, CounterStore(away)).note(old, Write.RESULT, now=LATER)
    assert store.jobs.get(before.job_id).refused_writes == 1


def test_what_is_counted_is_done_and_counted_on_a_host_that_has_no_thread_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        store.counters.add({"passes": 1})
    store.counters.add({"passes": 1})
    eventually(lambda: (store.database["counters"].find_one() or {}).get("passes") == 2)


def test_counters_add_up_and_nothing_is_written_for_nothing(any_store: Store) -> None:
    any_store.counters.add({})
    assert any_store.database["counters"].count_documents({}) == 0
    any_store.counters.add({"passes": 1, "passesSeconds": 0.25, "assignments.http": 2})
    any_store.counters.add({"passes": 1, "passesSeconds": 0.5, "assignments.celery": 1})
    assert any_store.counters.read() == {
        "passes": 2,
        "passesSeconds": 0.75,
        "assignments": {"http": 2, "celery": 1},
    }


def test_a_transition_that_was_not_written_counts_nothing(any_store: Store) -> None:
    running = factories.running_job()
    any_store.jobs.submit([running])
    expired = lifecycle.expire(running, at=Moment(now=LATER))
    assert expired is not None
    assert any_store.jobs.apply(expired)
    assert any_store.jobs.apply(expired) is None
    assert any_store.counters.read() == {"attemptsLost": 1, "requeues": {"expire": 1}}
    assert any_store.jobs.get(running.job_id).status is JobStatus.QUEUED
