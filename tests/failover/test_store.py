"""The store on a replica set whose members fail: majority, unknown outcomes, bounded waits."""

from __future__ import annotations

import itertools
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO

import pytest
from pymongo.errors import BulkWriteError

from taskyard import ids
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.transition import Moment, Transition
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.store.chunks import Chunk
from taskyard.store.client import Store
from taskyard.store.connection import OPERATION_TIMEOUT_MS
from taskyard.store.failures import accept_duplicates, is_unavailable
from taskyard.store.reach import Reach
from tests import factories
from tests.factories import LEASE, NOW
from tests.failover.conftest import APP, Fail
from tests.helpers import eventually
from tests.replica_set import Member, ReplicaSet

#: The write concern error of a write that has reached too few members for a majority.
TOO_FEW = {"code": 64, "errmsg": "waiting for replication timed out", "errInfo": {"wtimeout": True}}

#: The time limit of an operation, doubled for a busy machine.
BOUND_SECONDS = 2 * OPERATION_TIMEOUT_MS / 1000


@contextmanager
def stopped(*members: Member) -> Iterator[None]:
    """Stop members: they answer nothing, and their connections stay open."""
    for member in members:
        member.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for member in members:
            member.signal(signal.SIGCONT)


def others(replica_set: ReplicaSet) -> list[Member]:
    primary = replica_set.await_primary()
    return [member for member in replica_set.members if member is not primary]


def assigned(store: Store, job: Job) -> Transition:
    return lifecycle.assign(
        job, worker_id="w1", lease_id=ids.lease(), at=Moment(now=NOW), start_by=NOW + LEASE
    )


def test_a_submit_that_reached_no_majority_is_not_acknowledged(store: Store, fail: Fail) -> None:
    job = factories.queued_job()
    fail(["insert"], collection="jobs", writeConcernError=TOO_FEW)
    with pytest.raises(Exception, match="not confirmed") as refused:
        store.jobs.submit([job])
    assert is_unavailable(refused.value)
    store.jobs.submit([job])
    assert store.database["jobs"].count_documents({}) == 1


def test_a_batch_of_assignments_that_reached_no_majority_is_unknown(
    store: Store, fail: Fail
) -> None:
    job = factories.queued_job()
    store.jobs.submit([job])
    fail(["update"], collection="jobs", writeConcernError=TOO_FEW)
    assignment = assigned(store, job)
    with pytest.raises(Exception, match="not confirmed"):
        store.jobs.apply_all([assignment])
    assert store.jobs.apply_all([assignment]) == [assignment], "it is known by its line"


def test_output_that_reached_no_majority_is_sent_again_and_there_once(
    store: Store, fail: Fail
) -> None:
    job = factories.running_job()
    store.jobs.submit([job])
    chunks = [Chunk(seq=0, stream="stdout", data="a")]
    fail(["insert"], collection="output", writeConcernError=TOO_FEW)
    with pytest.raises(Exception, match="not confirmed"):
        store.output.store(job.job_id, 1, chunks, now=NOW)
    store.output.store(job.job_id, 1, chunks, now=NOW)
    assert [chunk.data for chunk in store.output.read(job)] == ["a"]


def test_a_reservation_that_reached_no_majority_is_unknown(store: Store, fail: Fail) -> None:
    store.workers.register("w1", {"kind": "celery", "bootId": "b"}, now=NOW)
    fail(["update"], collection="workers", writeConcernError=TOO_FEW)
    with pytest.raises(Exception, match="not confirmed"):
        store.workers.reserve({"w1": "job-1"}, {"w1": None})


@pytest.mark.parametrize(
    ("failed", "concern", "unavailable"),
    [
        ([11000], [], None),
        ([11000], [64], True),
        ([11000, 91], [], True),
        ([121], [], False),
        ([121, 11000], [64], False),
    ],
)
def test_a_batch_that_failed_is_a_duplicate_an_unknown_or_a_defect(
    failed: list[int], concern: list[int], unavailable: bool | None
) -> None:
    error = BulkWriteError(
        {
            "writeErrors": [{"code": code} for code in failed],
            "writeConcernErrors": [{"code": code} for code in concern],
        }
    )
    if unavailable is None:
        accept_duplicates(error)
        return
    with pytest.raises(Exception, match=r".") as raised:
        accept_duplicates(error)
    assert is_unavailable(raised.value) is unavailable


def test_with_two_of_three_gone_a_write_ends_in_time_and_is_unknown(
    store: Store, replica_set: ReplicaSet
) -> None:
    job = factories.queued_job()
    began = time.monotonic()
    with stopped(*others(replica_set)), pytest.raises(Exception, match=r".") as refused:
        store.jobs.submit([job])
    assert time.monotonic() - began < BOUND_SECONDS
    assert is_unavailable(refused.value)
    replica_set.await_primary()
    eventually(lambda: _written(store, job), 30)
    assert store.database["jobs"].count_documents({}) == 1


def test_what_was_written_on_a_minority_is_not_taken_for_confirmed(
    store: Store, replica_set: ReplicaSet
) -> None:
    """A submit that finds its job on the primary alone must not be acknowledged."""
    job = factories.queued_job()
    with stopped(*others(replica_set)):
        for _ in range(2):
            with pytest.raises(Exception, match=r".") as refused:
                store.jobs.submit([job])
            assert is_unavailable(refused.value)
    replica_set.await_primary()
    eventually(lambda: _written(store, job), 30)


def test_a_primary_that_answers_nothing_blocks_no_thread(
    store: Store, replica_set: ReplicaSet
) -> None:
    primary = replica_set.await_primary()
    store.clock.now()
    began = time.monotonic()
    with stopped(primary):
        _answered(lambda: store.jobs.find("job"))
        assert time.monotonic() - began < BOUND_SECONDS
        store.clock.forget()
        began = time.monotonic()
        store.clock.now()
        assert time.monotonic() - began < BOUND_SECONDS
    eventually(lambda: store.reach(silence_seconds=6) is Reach.PRIMARY, 30)


def test_reach_tells_an_election_from_being_cut_off(store: Store, replica_set: ReplicaSet) -> None:
    eventually(lambda: store.reach(silence_seconds=6) is Reach.PRIMARY, 30)
    primary = replica_set.await_primary()
    with stopped(*others(replica_set)):
        eventually(lambda: store.reach(silence_seconds=6) is Reach.CUT_OFF, 30)
    eventually(lambda: store.reach(silence_seconds=6) is Reach.PRIMARY, 30)
    primary = replica_set.await_primary()
    seen = set()
    # The driver's monitors poll every two seconds: an election could be over between two polls.
    replica_set.put_off_elections(6)
    primary.signal(signal.SIGKILL)
    try:

        def elected() -> bool:
            seen.add(store.reach(silence_seconds=6))
            return seen >= {Reach.PRIMARY, Reach.ELECTION}

        eventually(elected, 30)
        eventually(lambda: store.reach(silence_seconds=6) is Reach.PRIMARY, 30)
    finally:
        primary.start()


def test_a_large_file_is_stored_although_operations_end_in_time(store: Store) -> None:
    content = secrets.token_bytes(1024 * 1024) * 120
    saved = store.files.save(
        BytesIO(content), filename="large", cap_bytes=10**9, keep=timedelta(days=1)
    )
    assert saved.size_bytes == len(content)
    size = sum(len(piece) for piece in store.files.pieces(saved.file_id, 0, len(content)))
    assert size == len(content)
    store.files.delete([saved.file_id])


def test_the_feed_comes_back_after_an_election(
    store: Store, replica_set: ReplicaSet, settings: Settings
) -> None:
    job = factories.queued_job()
    store.jobs.submit([job])
    values = itertools.cycle([True, False])
    with store.feed.waiting_for(job.job_id) as woken:

        def wakes() -> bool:
            woken.clear()
            change = {"$set": {"cancelRequested": next(values)}}
            changed = _answered(
                lambda: store.database["jobs"].update_one({"_id": job.job_id}, change)
            )
            return changed and woken.wait(1)

        eventually(wakes, 30)
        replica_set.step_down()
        replica_set.await_primary()
        eventually(wakes, 30)


def test_a_store_can_be_made_while_indexes_are_there_already(settings: Settings) -> None:
    store_client.connect(settings, app_name=APP).close()


def _written(store: Store, job: Job) -> bool:
    return _answered(lambda: store.jobs.submit([job]))


def _answered(act: Callable[[], object]) -> bool:
    """Whether the call succeeded; it may fail only because MongoDB is away."""
    try:
        act()
    except Exception as error:
        if not is_unavailable(error):
            raise
        return False
    return True
