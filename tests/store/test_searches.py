"""Searches on a real server: what they find, which index they use, and where they stop."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from pymongo.collection import Collection

from taskyard import ids
from taskyard.documents import to_document
from taskyard.jobs.search import Field, equal
from taskyard.jobs.search_terms import parse
from taskyard.jobs.states import JobStatus
from taskyard.store import queries, searches
from taskyard.store.client import Store
from taskyard.store.searches import Position
from tests import factories
from tests.factories import NOW

FIXTURES: dict[str, tuple[JobStatus, dict[str, Any]]] = {
    "queued": (JobStatus.QUEUED, {"command": "make all", "labels": ["gpu"], "priority": 9}),
    "running": (JobStatus.RUNNING, {"command": "pytest -q", "worker_id": "w1"}),
    "done": (JobStatus.COMPLETED, {"worker_id": "w1", "submitted_by": "ann", "filename": "a.zip"}),
    "failed": (
        JobStatus.FAILED,
        {"worker_id": "w2", "labels": ["gpu", "arm"], "retry_of": "job-1"},
    ),
    "old": (JobStatus.CANCELLED, {"now": NOW - timedelta(days=2), "command": ".*"}),
}


#: Searches, and the names of the fixtures that each finds.
FOUND = (
    ("", "queued running done failed old"),
    ("status:live", "queued running"),
    ("-status:live,completed", "failed old"),
    ("worker:w1", "running done"),
    ("worker:w1 status:completed", "done"),
    ("-worker:w1", "queued failed old"),
    ("label:gpu", "queued failed"),
    ("label:gpu label:arm", "failed"),
    ("label:gpu -label:arm", "queued"),
    ("label:gpu,arm", "queued failed"),
    ("PYTEST", "running"),
    (".*", "old"),
    ("-pytest -make -true", "old"),
    ("by:ann", "done"),
    ("file:A.ZIP", "done"),
    ("retryof:job-1", "failed"),
    ("error:code", "failed"),
    ('error:"exit code #"', "failed"),
    ("error:.*", ""),
    ("exit:0", "done"),
    ("exit>0", "failed"),
    ("-exit:0", "queued running failed old"),
    ("priority>=9", "queued"),
    ("attempts:0", "queued old"),
    (f"created>{(NOW - timedelta(days=1)).isoformat()}", "queued running done failed"),
    (f"-created>={NOW.isoformat()}", "old"),
    (f"ended:{NOW.date()} status:ended", "done failed"),
    (f"started>{(NOW - timedelta(hours=1)).isoformat()}", "running done failed"),
    ("run<=1s", "done failed"),
    ("run>1s", "running"),
    ("wait>1s", "queued"),
)


@pytest.fixture
def names(store: Store) -> dict[str, str]:
    """Store one job of each kind; the names of the jobs by id."""
    found = {}
    for name, (status, fields) in FIXTURES.items():
        job = factories.job_in(status, **fields)
        store.jobs.submit([job])
        found[job.job_id] = name
    return found


@pytest.mark.parametrize(("text", "expected"), FOUND)
def test_what_a_search_finds(store: Store, names: dict[str, str], text: str, expected: str) -> None:
    page = store.queries.page(parse(text, now=NOW), limit=10)
    assert sorted(names[job.job_id] for job in page.jobs) == sorted(expected.split())


@pytest.mark.parametrize("text", ['error:"part #"', 'error:"part #5"', 'error:"part ##"'])
def test_a_number_sign_that_stands_in_an_error_is_found(store: Store, text: str) -> None:
    """The overview shows "no part #5" as "no part ##" and links to a search for that."""
    job = to_document(factories.job_in(JobStatus.FAILED)) | {"errorMessage": "no part #5"}
    store.database["jobs"].insert_one(job)
    page = store.queries.page(parse(text, now=NOW), limit=10)
    assert [found.job_id for found in page.jobs] == [job["_id"]]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('error:"###z"', f"hashes {'1a' * 900} ##5z"),
        ('error:"exit code #."', "exit code 137.\nsee the log"),
        ('error:"version # of #x#"', "version 1.2.3 of 5x5"),
        ('error:"#A#B"', "1A2B"),
        (f'error:"{"#" * 200}"', "#" * 200),
    ],
)
def test_numbers_are_found_whole_however_many_there_are(
    store: Store, text: str, error: str
) -> None:
    """MongoDB tried all parts of each number, until it gave up or took too long."""
    job = to_document(factories.job_in(JobStatus.FAILED)) | {"errorMessage": error}
    store.database["jobs"].insert_one(job)
    page = store.queries.page(parse(text, now=NOW), limit=10)
    assert [found.job_id for found in page.jobs] == [job["_id"]]


def test_an_id_finds_its_job_alone(store: Store, names: dict[str, str]) -> None:
    for job_id, name in names.items():
        page = store.queries.page(parse(f"id:{job_id}", now=NOW), limit=10)
        assert [names[job.job_id] for job in page.jobs] == [name]


def test_parameters_and_search_must_both_hold(store: Store, names: dict[str, str]) -> None:
    wanted = equal(Field.WORKER, "w1") & parse("status:running", now=NOW)
    page = store.queries.page(wanted, limit=10)
    assert [names[job.job_id] for job in page.jobs] == ["running"]


@pytest.fixture
def many(store: Store) -> list[str]:
    """Three hundred jobs, newest first; every third has failed."""
    kinds = [JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.COMPLETED]
    bases = [to_document(factories.job_in(status, labels=["gpu"])) for status in kinds]
    made = []
    for n in range(300):
        at = NOW - timedelta(seconds=n)
        made.append({**bases[n % 3], "_id": ids.new("job", at), "createdAt": at})
    store.database["jobs"].insert_many(made)
    return [job["_id"] for job in made]


@pytest.fixture
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits the jobs that are examined for one page to fifty."""
    monkeypatch.setattr(searches, "LOOKED_AT", 50)
    monkeypatch.setattr(queries, "LOOKED_AT", 50)


@pytest.mark.usefixtures("short_looks")
def test_a_search_that_stops_looking_says_so_and_finds_the_rest_page_by_page(
    store: Store, many: list[str]
) -> None:
    wanted = parse("worker:w1 status:failed", now=NOW)
    first = store.queries.page(wanted, limit=40)
    assert len(first.jobs) == 17
    assert first.looked_back_to == NOW - timedelta(seconds=49)
    seen, page, pages = list(first.jobs), first, 1
    while page.next:
        page = store.queries.page(wanted, limit=40, after=page.next)
        seen, pages = [*seen, *page.jobs], pages + 1
    assert [job.job_id for job in seen] == many[::3]
    assert pages == 6
    assert page.looked_back_to is None


@pytest.mark.usefixtures("short_looks")
@pytest.mark.parametrize("change", ["leave", "arrive"])
def test_what_leaves_or_arrives_while_a_page_is_looked_for_hides_and_repeats_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """A bulk cancel left out one queued job for each job that an agent claimed meanwhile."""
    bases = [factories.queued_job(command=command) for command in ("pytest", "make")]
    made: list[str] = []

    def make(at: datetime) -> None:
        job = replace(bases[len(made) % 2], job_id=ids.new("job", at), created_at=at)
        store.database["jobs"].insert_one(to_document(job))
        made.append(job.job_id)

    for n in range(200):
        make(NOW - timedelta(seconds=n))
    meant = made[::2]

    def happen(number: int) -> None:
        """Have agents claim jobs, or apps submit some, between any two reads."""
        if change == "arrive":
            for n in range(6):
                make(NOW + timedelta(seconds=10 * number + n))
        else:
            taken = made[number * 3 : number * 3 + 3]
            claimed = {"$set": {"status": str(JobStatus.RUNNING)}}
            store.database["jobs"].update_many({"_id": {"$in": taken}}, claimed)

    happened = itertools.count()
    aggregate = Collection.aggregate

    def between(collection: Any, *given: Any, **named: Any) -> Any:
        happen(next(happened))
        found = list(aggregate(collection, *given, **named))
        happen(next(happened))
        return iter(found)

    monkeypatch.setattr(Collection, "aggregate", between)
    wanted = parse("status:queued pytest", now=NOW)
    page = store.queries.page(wanted, limit=40)
    seen = [job.job_id for job in page.jobs]
    while page.next:
        page = store.queries.page(wanted, limit=40, after=page.next)
        seen += [job.job_id for job in page.jobs]
    assert len(seen) == len(set(seen))
    assert set(meant) - set(seen) <= set(made[:24] if change == "leave" else [])


@pytest.mark.usefixtures("short_looks")
def test_what_an_index_answers_is_never_cut(store: Store, many: list[str]) -> None:
    page = store.queries.page(parse("status:failed", now=NOW), limit=90)
    assert [job.job_id for job in page.jobs] == many[::3][:90]
    assert page.looked_back_to is None


@pytest.mark.parametrize(
    ("text", "index", "keys", "documents"),
    [
        ("", "newest", 11, 11),
        ("status:failed", "newest_by_status", 11, 11),
        ("status:failed,completed", "newest_by_status", 14, 13),
        ("-status:completed", "newest_by_status", 20, 11),
        ("worker:w1", "newest_by_worker", 11, 11),
        ("label:gpu", "newest_by_label", 11, 11),
        ("label:gpu worker:w1", "newest_by_worker", 51, 51),
        ("created<2026-11-23T11:58", "newest", 11, 11),
        ("worker:w1 status:failed", "newest_by_worker", 50, 50),
        ("nothing-like-it", "newest", 51, 51),
        ("status:failed nothing-like-it", "newest_by_status", 51, 51),
        ("by:nobody -worker:w1 run>1h", "newest", 51, 51),
        ("worker:nobody anything", "newest_by_worker", 1, 0),
    ],
)
@pytest.mark.usefixtures("short_looks", "many")
def test_a_page_is_read_off_an_index_and_looks_at_a_bounded_number(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    index: str,
    keys: int,
    documents: int,
) -> None:
    asked: list[dict[str, Any]] = []
    aggregate = Collection.aggregate

    def noted(collection: Any, pipeline: Any, *, hint: str) -> Any:
        asked.append({"aggregate": "jobs", "pipeline": pipeline, "cursor": {}, "hint": hint})
        return aggregate(collection, pipeline, hint=hint)

    monkeypatch.setattr(Collection, "aggregate", noted)
    for after in (None, Position(created_at=NOW - timedelta(seconds=100), job_id="job-x")):
        wanted = parse(text, now=NOW)
        store.queries.page(wanted, limit=10, after=after)
        command = asked.pop()
        explained = store.database.command("explain", command, verbosity="executionStats")
        stages = dict(walk(explained))
        assert command["hint"] == index
        assert "IXSCAN" in stages
        assert "COLLSCAN" not in stages
        assert "SORT" not in stages
        stats = found(explained, "executionStats")
        assert stats["totalKeysExamined"] <= keys
        assert stats["totalDocsExamined"] <= documents


def walk(node: Any) -> Any:
    """Yield each stage of an explained plan that was run, with its name."""
    if isinstance(node, dict):
        if "stage" in node:
            yield node["stage"], node
        for name, below in node.items():
            if name not in ("rejectedPlans", "allPlansExecution"):
                yield from walk(below)
    elif isinstance(node, list):
        for below in node:
            yield from walk(below)


def found(node: Any, name: str) -> Any:
    """Return the first value with that name, at any depth."""
    if isinstance(node, dict):
        if name in node:
            return node[name]
        return next((f for v in node.values() if (f := found(v, name)) is not None), None)
    if isinstance(node, list):
        return next((f for v in node if (f := found(v, name)) is not None), None)
    return None


def test_states_are_counted(store: Store, names: dict[str, str]) -> None:
    tally = store.queries.tally(parse("", now=NOW))
    assert set(tally.counts) == set(JobStatus)
    assert (tally.counts["FAILED"], tally.counts["ASSIGNED"], tally.total) == (1, 0, 5)
    narrower = store.queries.tally(parse("worker:w1", now=NOW))
    assert {name for name, count in narrower.counts.items() if count} == {"RUNNING", "COMPLETED"}
    assert not tally.more | narrower.more


@pytest.mark.usefixtures("short_looks", "many")
def test_counting_stops_where_it_may_and_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "COUNTED", 120)
    states = store.queries.tally(parse("", now=NOW))
    assert states.counts["COMPLETED"] == 120
    assert states.counts["FAILED"] == 100
    assert states.more == {"COMPLETED"}
    narrower = store.queries.tally(parse("worker:w1", now=NOW))
    assert narrower.total == 50
    assert "FAILED" in narrower.more
