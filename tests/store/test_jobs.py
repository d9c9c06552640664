"""The job collection: guarded writes, pages, and live jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from taskyard import ids
from taskyard.errors import Conflict, NotFound, StaleAttempt
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.search import (
    EVERYTHING,
    Comparison,
    Field,
    Search,
    created,
    equal,
    in_states,
)
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome, Transition
from taskyard.store import live
from taskyard.store.client import Store
from taskyard.store.indexes import ensure_indexes
from taskyard.store.searches import Position
from tests import factories
from tests.conftest import Racing
from tests.factories import LEASE, NOW
from tests.store.conftest import stored

AT = Moment(now=NOW)


def assignment(job: Job, worker_id: str = "w1") -> Transition:
    return lifecycle.assign(
        job, worker_id=worker_id, lease_id=ids.lease(), at=AT, start_by=NOW + LEASE
    )


def test_a_job_is_found_as_it_was_submitted(any_store: Store) -> None:
    job = factories.queued_job(labels=["gpu"], env={"A": "b"}, required_cpu=0.5)
    assert stored(any_store, job) == job
    assert any_store.jobs.find("gone") is None
    with pytest.raises(NotFound):
        any_store.jobs.get("gone")


def test_submitting_twice_changes_nothing(any_store: Store) -> None:
    job = stored(any_store, factories.queued_job())
    any_store.jobs.apply(assignment(job))
    any_store.jobs.submit([job])
    assert any_store.jobs.get(job.job_id).status is JobStatus.ASSIGNED


@pytest.mark.parametrize("field", ["status", "attempts", "leaseId", "cancelRequested"])
def test_a_write_whose_guard_no_longer_matches_is_not_written(any_store: Store, field: str) -> None:
    job = stored(any_store, factories.queued_job())
    transition = assignment(job)
    other = {"status": "RUNNING", "attempts": 7, "leaseId": "x", "cancelRequested": True}[field]
    any_store.database["jobs"].update_one({"_id": job.job_id}, {"$set": {field: other}})
    before = any_store.jobs.get(job.job_id)
    assert any_store.jobs.apply(transition) is None
    assert any_store.jobs.get(job.job_id) == before


def test_twenty_that_race_for_one_transition_have_one_winner(store: Store, racing: Racing) -> None:
    job = stored(store, factories.queued_job())
    won = racing(lambda: store.jobs.apply(assignment(job)), 20)
    assert len([job for job in won if job]) == 1
    assert store.jobs.get(job.job_id).attempts == 1


def test_a_decision_is_taken_anew_when_somebody_was_faster(any_store: Store) -> None:
    job = stored(any_store, factories.queued_job())
    seen: list[JobStatus] = []

    def decide(found: Job) -> Transition:
        seen.append(found.status)
        if len(seen) == 1:
            any_store.jobs.apply(assignment(found))
        return lifecycle.cancel(found, by="op", reason=None, at=AT)

    assert any_store.jobs.change(job.job_id, decide).status is JobStatus.CANCELLED
    assert seen == [JobStatus.QUEUED, JobStatus.ASSIGNED]
    with pytest.raises(Conflict):
        any_store.jobs.change(job.job_id, decide)


def test_a_batch_of_assignments_tells_which_were_won(store: Store) -> None:
    jobs = [stored(store, factories.queued_job()) for _ in range(5)]
    store.jobs.apply(lifecycle.cancel(jobs[2], by="op", reason=None, at=AT))
    won = store.jobs.apply_all([assignment(job) for job in jobs])
    assert {t.job_id for t in won} == {job.job_id for n, job in enumerate(jobs) if n != 2}
    assert store.jobs.get(jobs[2].job_id).status is JobStatus.CANCELLED


def test_of_two_batches_that_decide_the_same_in_one_millisecond_one_wins(store: Store) -> None:
    job = stored(store, factories.queued_job())
    one, other = assignment(job), assignment(job)
    assert one.entry == other.entry
    assert store.jobs.apply_all([one]) == [one]
    assert store.jobs.apply_all([other]) == []
    assert store.jobs.get(job.job_id).lease_id == one.changes["leaseId"]


def test_ends_that_are_written_together_are_what_each_alone_would_be(store: Store) -> None:
    job = factories.running_job()
    jobs = [replace(job, job_id=f"job-{number}") for number in range(4)]
    store.jobs.submit(jobs)
    ends = [
        lifecycle.finish(
            job,
            lease_of(job),
            Outcome(exit_code=exit_code, fields={"startedAt": NOW, "smallOutput": output}),
            at=Moment(now=NOW + timedelta(milliseconds=number)),
        )
        for number, (job, exit_code, output) in enumerate(
            zip(jobs, (0, 0, 0, 7), ("$hi", "$$ROOT", [{"data": "$a"}], ""), strict=True)
        )
    ]
    expired = lifecycle.expire(jobs[2], at=Moment(now=NOW + LEASE + LEASE))
    assert expired is not None
    gone = store.jobs.apply(expired)
    assert store.jobs.apply_all(ends) == [ends[0], ends[1], ends[3]]
    assert store.jobs.get(jobs[2].job_id) == gone
    for job, end in ((jobs[n], ends[n]) for n in (0, 1, 3)):
        assert store.jobs.get(job.job_id) == end.moved()
        document = store.database["jobs"].find_one({"_id": job.job_id})
        assert document is not None
        assert document["smallOutput"] == end.changes["smallOutput"]
        assert not set(end.cleared) & set(document)


def test_only_ended_jobs_can_be_deleted(any_store: Store) -> None:
    live = stored(any_store, factories.running_job())
    ended = stored(any_store, factories.job_in(JobStatus.COMPLETED))
    assert any_store.jobs.delete([live.job_id, ended.job_id]) == 1
    assert any_store.jobs.find(live.job_id)
    assert any_store.jobs.find(live.job_id)


def test_pages_have_no_gap_and_no_repeat_while_jobs_arrive(store: Store) -> None:
    jobs = [factories.queued_job(now=NOW - timedelta(seconds=n // 3)) for n in range(20)]
    store.jobs.submit(jobs)
    seen: list[str] = []
    position: Position | None = None
    while True:
        page = store.queries.page(EVERYTHING, limit=3, after=position)
        seen += [job.job_id for job in page.jobs]
        store.jobs.submit([factories.queued_job(now=NOW + timedelta(seconds=1))])
        if page.next is None:
            break
        position = page.next
    assert sorted(seen) == sorted(job.job_id for job in jobs)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (in_states([JobStatus.RUNNING]), ["b"]),
        (in_states([JobStatus.RUNNING, JobStatus.QUEUED]), ["a", "b"]),
        (equal(Field.WORKER, "w1"), ["b"]),
        (equal(Field.LABEL, "gpu"), ["a"]),
        (equal(Field.TEXT, "ALPHA"), ["a"]),
        (equal(Field.TEXT, ".*"), []),
        (created(Comparison.BELOW, NOW - timedelta(seconds=1)), ["c"]),
        (created(Comparison.FROM, NOW), ["a", "b"]),
    ],
)
def test_filters(store: Store, wanted: Search, found: list[str]) -> None:
    names = {
        stored(store, job).job_id: name
        for name, job in {
            "a": factories.queued_job(command="alpha", labels=["gpu"]),
            "b": factories.running_job("w1", command="beta"),
            "c": factories.job_in(
                JobStatus.CANCELLED, command="gamma", now=NOW - timedelta(seconds=9)
            ),
        }.items()
    }
    page = store.queries.page(wanted, limit=10)
    assert sorted(names[job.job_id] for job in page.jobs) == found


def test_the_queue_is_in_order_and_bounded_by_shape(store: Store) -> None:
    small = [factories.queued_job(now=NOW + timedelta(seconds=n)) for n in range(5)]
    large = factories.queued_job(required_cpu=64, now=NOW + timedelta(seconds=99))
    urgent = factories.queued_job(priority=9, now=NOW + timedelta(seconds=50))
    store.jobs.submit([*small, large, urgent])
    queue = store.live.queue(per_shape=3)
    assert [job.job_id for job in queue] == [
        urgent.job_id,
        small[0].job_id,
        small[1].job_id,
        large.job_id,
    ]
    assert store.live.ahead_of(large) == 6


def test_a_queued_job_keeps_where_it_was_lost(store: Store) -> None:
    job = stored(store, factories.running_job(kind="http"))
    late = Moment(now=NOW + timedelta(hours=1))
    gone = lifecycle.expire(job, at=late)
    assert gone is not None
    store.jobs.apply(gone)
    assert store.live.queue(per_shape=10)[0].lost_on == ("w1/boot-1",)


def test_what_is_in_use_is_the_sum_over_live_jobs(any_store: Store) -> None:
    for job in (
        factories.assigned_job("w1", required_cpu=0.5),
        factories.running_job("w1", required_cpu=2, required_ram_mb=100),
        factories.running_job("w2"),
        factories.job_in(JobStatus.FAILED),
    ):
        stored(any_store, job)
    usage = any_store.live.usage()
    assert (usage["w1"].cpu, usage["w1"].ram_mb, usage["w1"].jobs) == (2.5, 356, 2)
    assert set(any_store.live.usage(["w2"])) == {"w2"}


def test_the_longest_waiting_job_is_told_whatever_its_shape_and_priority(store: Store) -> None:
    assert store.live.oldest_queued() is None
    for cpu in (1, 2):
        for priority in (1, 9):
            at = NOW - timedelta(seconds=10 * cpu - priority)
            stored(store, factories.queued_job(now=at, required_cpu=cpu, priority=priority))
            stored(store, factories.queued_job(required_cpu=cpu, priority=priority))
    longest = NOW - timedelta(seconds=19)
    assert store.live.oldest_queued() == longest


def test_a_look_at_the_queue_is_bounded_in_kinds_and_leaves_none_out_for_good(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "SHAPES_AT_ONCE", 2)
    store.jobs.submit([factories.queued_job(required_ram_mb=mb) for mb in range(1, 6)])
    looks = [store.live.queue(per_shape=1) for _ in range(200)]
    assert {len(look) for look in looks} == {2}
    assert {job.required_ram_mb for look in looks for job in look} == {1, 2, 3, 4, 5}


def test_there_may_be_more_kinds_waiting_than_one_answer_of_mongodb_holds(store: Store) -> None:
    """When that failed, no job was placed any more, not even those that waited before."""
    longest = f"1/256/{','.join(['label' * 13] * 20)}"
    for some in range(0, 13_000, 1_000):
        kinds = ({"status": "QUEUED", "shape": f"{longest}{n}"} for n in range(some, some + 1_000))
        store.database["jobs"].insert_many(kinds)
    assert len(store.live.waiting_shapes()) == 13_000


def test_the_jobs_of_a_list_are_ahead_of_each_other_in_order(store: Store) -> None:
    jobs = sorted([factories.queued_job() for _ in range(4)], key=lambda job: job.job_id)
    store.jobs.submit(jobs)
    assert [store.live.ahead_of(job) for job in jobs] == [0, 1, 2, 3]


def test_counting_what_is_live_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "COUNTED_FIRST", 3)
    store.jobs.submit([factories.queued_job() for _ in range(5)])
    assert store.live.counts()["QUEUED"] == 3


def test_an_index_that_was_replaced_is_dropped(store: Store) -> None:
    jobs = store.database["jobs"]
    jobs.create_index([("assignedAgentId", 1), ("leaseUntil", 1)], name="held")
    ensure_indexes(store.database)
    names = set(jobs.index_information())
    assert "held" not in names
    assert "held_by" in names


def test_the_live_queries_use_an_index(store: Store) -> None:
    jobs = store.database["jobs"]
    for query in (
        {"status": "QUEUED", "shape": "1/256/"},
        {"leaseUntil": {"$lt": NOW}},
        {"leaseUntil": {"$exists": True}},
        {"leaseUntil": {"$exists": True}, "assignedAgentId": "w1"},
        {"expireAt": {"$lt": NOW}},
        {"fileId": "x"},
        {"resultFileId": "x"},
    ):
        plan = str(jobs.find(query).explain()["queryPlanner"]["winningPlan"])
        assert "IXSCAN" in plan, query
        assert "COLLSCAN" not in plan


def test_the_first_of_many_shapes_are_read_in_order_and_no_others(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued = [
        factories.queued_job(
            now=NOW + timedelta(seconds=number), required_ram_mb=1 + number % 3, priority=number % 2
        )
        for number in range(30)
    ]
    store.jobs.submit(queued)
    shapes = store.live.waiting_shapes()
    best = sorted(queued, key=live.queue_order)
    assert [job.job_id for job in store.live.first(shapes, 7)] == [job.job_id for job in best[:7]]
    monkeypatch.setattr(live, "SHAPES_AT_ONCE", 2)
    assert len({job.shape for job in store.live.first(shapes, 30)}) == 2


def test_the_first_of_many_shapes_are_merged_and_not_sorted(store: Store) -> None:
    shapes = [f"1/{megabytes}/" for megabytes in range(live.SHAPES_AT_ONCE)]
    query = {"status": "QUEUED", "shape": {"$in": shapes}}
    in_order = store.database["jobs"].find(query).hint("queue").sort(live.IN_ORDER).limit(64)
    plan = str(in_order.explain()["queryPlanner"]["winningPlan"])
    assert "'SORT_MERGE'" in plan
    assert "'SORT'" not in plan


def test_output_of_an_attempt_is_ordered_bounded_and_idempotent(store: Store) -> None:
    job = stored(store, factories.running_job(kind="http"))
    for seq, text in ((0, "a"), (2, "c"), (1, "b"), (1, "b")):
        store.output.append(job, "stdout", text, seq=seq, now=NOW)
    assert "".join(chunk.data for chunk in store.output.read(job)) == "abc"
    assert store.jobs.get(job.job_id).output_bytes == 3
    assert [chunk.data for chunk in store.output.read(job, after=1)] == ["c"]


def test_output_of_an_attempt_that_is_over_is_refused(store: Store) -> None:
    job = stored(store, factories.running_job(kind="http"))
    ended = lifecycle.finish(job, lease_of(job), Outcome(), at=AT)
    store.jobs.apply(ended)
    with pytest.raises(StaleAttempt):
        store.output.append(job, "stdout", "late", seq=None, now=NOW)


def test_output_over_the_cap_is_cut_and_says_so_once(store: Store) -> None:
    from taskyard.store.output import OutputStore

    small = OutputStore(store.database, cap_bytes=10)
    job = stored(store, factories.running_job(kind="http"))
    for _ in range(4):
        small.append(job, "stdout", "äääx", seq=None, now=NOW)
    text = "".join(chunk.data for chunk in small.read(job))
    assert text.startswith("äääx")
    assert text.count("output cut at 10 bytes") == 1
    assert store.jobs.get(job.job_id).output_truncated


def test_deleting_output_takes_that_jobs_alone(store: Store) -> None:
    jobs = [stored(store, factories.running_job(kind="http")) for _ in range(2)]
    for job in jobs:
        store.output.append(job, "stdout", "x", seq=None, now=NOW)
    assert store.output.delete([jobs[0].job_id]) == 1
    assert [chunk.data for chunk in store.output.read(jobs[1])] == ["x"]


def test_of_many_retries_the_oldest_are_told(store: Store) -> None:
    job = factories.queued_job()
    later, sooner = (factories.queued_job(job_id=f"job-{n}", retry_of=job.job_id) for n in (2, 1))
    for retry in (job, later, sooner):
        store.jobs.submit([retry])
    assert [found.job_id for found in store.queries.retries_of(job.job_id, limit=1)] == ["job-1"]
