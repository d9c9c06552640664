"""``/metrics``: what operators watch, computed from the collections."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from taskyard import __version__, ids
from taskyard.api.metrics import PlatformCollector
from taskyard.context import Platform
from taskyard.documents import to_document
from taskyard.jobs.counters import Counter
from taskyard.jobs.states import JobStatus
from taskyard.store import failures
from tests import factories
from tests.api.agents import HttpAgent, submit_job
from tests.api.conftest import As
from tests.conftest import TestClock


def read(client: FlaskClient) -> dict[str, float]:
    """Return the value of every sample by ``name{label}``, with the value of its one label."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    samples = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            label = "".join(f"{{{value}}}" for value in sample.labels.values())
            samples[f"{sample.name}{label}"] = sample.value
    return samples


def test_a_fresh_platform_shows_every_counter_at_zero(api: FlaskClient) -> None:
    found = read(api)
    assert found.pop(f"taskyard_build_info{{{__version__}}}") == 1
    assert set(found.values()) == {0}
    for name in (
        "taskyard_attempts_lost_total",
        "taskyard_jobs_recovered_total",
        "taskyard_poison_jobs_total",
        "taskyard_requeues_total{expire}",
        "taskyard_assignments_total{celery}",
        "taskyard_refused_writes_total{heartbeat}",
        "taskyard_refused_writes_total{release}",
        "taskyard_sweeps_held_back_total",
        "taskyard_pass_duration_seconds_count",
        "taskyard_pass_duration_seconds_sum",
        "taskyard_jobs{QUEUED}",
        "taskyard_jobs{RUNNING}",
        "taskyard_oldest_queued_seconds",
        "taskyard_workers{OFFLINE}",
    ):
        assert name in found


def test_a_lost_job_can_be_followed_through_the_counters(
    api: FlaskClient, let_pass: Callable[[float], None]
) -> None:
    agent = HttpAgent(api, fenced=True)
    agent.register()
    submit_job(api)
    agent.poll()
    agent.stream("alive")
    let_pass(40)
    agent.stream("late")
    other = HttpAgent(api, "w2")
    other.register()
    other.poll()
    found = read(api)
    assert found["taskyard_attempts_lost_total"] == 1
    assert found["taskyard_requeues_total{expire}"] == 1
    assert found["taskyard_jobs_recovered_total"] == 1
    assert found["taskyard_assignments_total{http}"] == 2
    assert found["taskyard_refused_writes_total{output}"] == 1
    assert found["taskyard_jobs{RUNNING}"] == 1
    assert found["taskyard_workers{BUSY}"] == 1
    assert found["taskyard_workers{OFFLINE}"] == 1


def test_a_pass_counts_what_it_assigned_and_how_long_it_took(
    api: FlaskClient, platform: Platform
) -> None:
    facts: dict[str, Any] = {"kind": "celery", "bootId": "b", "cpuCount": 2, "ramTotalMb": 1024}
    now = platform.store.clock.now()
    platform.store.workers.register("c1", {"hostname": "h", **facts}, now=now)
    for _ in range(3):
        submit_job(api)
    found = read(api)
    assert found["taskyard_assignments_total{celery}"] == 2
    # The third pass found no free worker, so it did not look at the queue and is not counted.
    assert found["taskyard_pass_duration_seconds_count"] == 2
    assert 0 < found["taskyard_pass_duration_seconds_sum"] < 30
    assert (found["taskyard_jobs{ASSIGNED}"], found["taskyard_jobs{QUEUED}"]) == (2, 1)


def test_an_idle_platform_counts_nothing(platform: Platform, tick: Callable[[str], None]) -> None:
    facts: dict[str, Any] = {"kind": "celery", "bootId": "b", "cpuCount": 2, "ramTotalMb": 1024}
    now = platform.store.clock.now()
    platform.store.workers.register("c1", {"hostname": "h", **facts}, now=now)
    for name in ("timeouts", "assignment", "health", "retention") * 2:
        tick(name)
    assert platform.store.database["counters"].count_documents({}) == 0


def test_a_sweep_that_waits_after_an_outage_is_counted(
    api: FlaskClient, tick: Callable[[str], None], clock: TestClock
) -> None:
    tick("timeouts")
    clock.advance(60)
    tick("timeouts")
    tick("timeouts")
    assert read(api)["taskyard_sweeps_held_back_total"] == 2


def test_ages_grow_with_the_databases_clock(
    api: FlaskClient, platform: Platform, tick: Callable[[str], None], clock: TestClock
) -> None:
    tick("timeouts")
    platform.store.locks.note_scheduler(now=clock.now())
    submit_job(api)
    clock.advance(5)
    submit_job(api)
    clock.advance(5)
    found = read(api)
    assert "taskyard_tick_age_seconds{health}" not in found
    for name in (
        "taskyard_tick_age_seconds{timeouts}",
        "taskyard_scheduler_age_seconds",
        "taskyard_oldest_queued_seconds",
    ):
        assert 10 <= found[name] < 15, name


def test_a_requeued_job_waits_from_the_day_it_came_back(
    api: FlaskClient, let_pass: Callable[[float], None]
) -> None:
    agent = HttpAgent(api)
    agent.register()
    submit_job(api)
    agent.poll()
    agent.stream("alive")
    let_pass(34)
    assert read(api)["taskyard_oldest_queued_seconds"] < 10


def test_labels_are_from_fixed_sets(api: FlaskClient, platform: Platform) -> None:
    """A name that is not known here, written by another version, makes no new series."""
    before = set(read(api))
    platform.store.counters.add({Counter.REFUSED_WRITES.of("invented"): 1, "unknown": 1})
    assert set(read(api)) == before


@pytest.mark.parametrize(("role", "status"), [("viewer", 200), ("operator", 200), ("agent", 403)])
def test_metrics_are_for_viewers_and_operators(as_role: As, role: str, status: int) -> None:
    assert as_role(role).get("/metrics").status_code == status


def test_without_mongodb_the_answer_is_503_and_not_half_of_the_numbers(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise failures.UNAVAILABLE[0]("away")

    monkeypatch.setattr(platform.store.locks, "ticks", away)
    answer = api.get("/metrics")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]


@contextmanager
def profiled(platform: Platform) -> Iterator[list[dict[str, Any]]]:
    """Give a list that, after the block, holds the queries on jobs that the server ran in it."""
    database = platform.store.database
    queries: list[dict[str, Any]] = []
    database.command("profile", 2)
    try:
        yield queries
    finally:
        database.command("profile", 0)
        queries.extend(database["system.profile"].find({"ns": f"{database.name}.jobs"}))
        database["system.profile"].drop()


def test_its_queries_read_what_is_live_however_many_jobs_have_ended(
    platform: Platform, api: FlaskClient
) -> None:
    ended = to_document(factories.job_in(JobStatus.COMPLETED))
    platform.store.database["jobs"].insert_many(
        [{**ended, "_id": ids.new("job", factories.NOW)} for _ in range(5_000)]
    )
    platform.store.jobs.submit([factories.queued_job() for _ in range(5)])
    platform.store.jobs.submit([factories.running_job() for _ in range(5)])
    with profiled(platform) as queries:
        assert read(api)["taskyard_jobs{QUEUED}"] == 5
    assert len(queries) >= 5
    for query in queries:
        assert "COLLSCAN" not in query["planSummary"], query
        assert query["keysExamined"] <= 11, query
        assert query["docsExamined"] <= 10, query


def test_every_counter_has_its_metric(platform: Platform, api: FlaskClient) -> None:
    """A counter that is not shown would be written for nobody."""
    labels = {"requeues": "expire", "assignments": "http", "refusedWrites": "result"}
    platform.store.counters.add({c.of(labels[c]) if c in labels else str(c): 7 for c in Counter})
    assert list(read(api).values()).count(7) == len(Counter)
    assert len({family.name for family in _families(platform, api)}) > len(Counter)


def _families(platform: Platform, api: FlaskClient) -> list[Any]:
    with api.application.test_request_context():
        return list(PlatformCollector(platform).collect())
