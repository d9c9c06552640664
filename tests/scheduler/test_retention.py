"""Retention removes what is old, children before parents, and keeps what is in use."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from taskyard import operations
from taskyard.agent.reporting import Reporter
from taskyard.context import Platform
from taskyard.errors import StoreUnavailable
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.transition import Outcome
from taskyard.scheduler import retention, ticks
from taskyard.store import files
from taskyard.store.chunks import Chunk
from taskyard.store.client import Store
from taskyard.store.files import FileStore, StoredFile
from tests import factories
from tests.conftest import TestClock

DAY = 24 * 3600


def saved(store: Store, keep_days: float) -> StoredFile:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a", "b")
    target.seek(0)
    return store.files.save(
        target, filename="a.zip", cap_bytes=10**6, keep=timedelta(days=keep_days), is_archive=True
    )


def ended_job(platform: Platform, **fields: Any) -> Job:
    """Store a job that has just ended, with output and a result."""
    store = platform.store
    job = factories.running_job(now=store.clock.now(), **fields)
    store.jobs.submit([job])
    store.output.append(job, "stdout", "hello", seq=0, now=store.clock.now())
    result = saved(store, keep_days=30)
    outcome = Outcome(fields={"resultFileId": result.file_id})
    ended = Reporter(platform).finish(lease_of(job), outcome, at=platform.moment())
    assert ended is not None
    return ended


def left(store: Store) -> dict[str, int]:
    names = ("jobs", "output", "files.files", "files.chunks")
    return {name: store.database[name].count_documents({}) for name in names}


def test_an_ended_job_goes_with_its_output_and_result_when_its_time_is_over(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    ended_job(platform)
    clock.advance(29 * DAY)
    tick("retention")
    assert left(platform.store)["jobs"] == 1
    clock.advance(2 * DAY)
    tick("retention")
    assert left(platform.store) == {"jobs": 0, "output": 0, "files.files": 0, "files.chunks": 0}


def test_a_job_that_has_not_ended_stays_however_old(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    operations.submit(platform, [{"command": "true"}], by="app")
    clock.advance(400 * DAY)
    tick("retention")
    assert left(platform.store)["jobs"] == 1


def test_the_output_goes_before_its_job_so_that_a_crash_leaves_no_orphan(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ended_job(platform)
    clock.advance(31 * DAY)

    def crash(_: object, job_ids: list[str]) -> None:
        raise KeyboardInterrupt(job_ids)

    with monkeypatch.context() as patched:
        patched.setattr("taskyard.store.jobs.JobStore.delete", crash)
        with pytest.raises(KeyboardInterrupt):
            retention.tick(platform.store, platform.settings)
    assert left(platform.store) == {"jobs": 1, "output": 0, "files.files": 0, "files.chunks": 0}
    retention.tick(platform.store, platform.settings)
    assert platform.store.jobs.find(job.job_id) is None


def test_a_tick_ends_soon_and_others_have_their_turn_before_it_goes_on(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    monkeypatch.setattr(retention, "SLICE_SECONDS", 0)
    for _ in range(5):
        ended_job(platform)
    for _ in range(3):
        saved(platform.store, keep_days=30)
    clock.advance(31 * DAY)
    messages: list[tuple[list[str], int | None]] = [(["health", "retention"], None)]
    jobs: list[int] = []

    def go_on(names: Sequence[str], until: int, _expiration: float) -> None:
        messages.append((list(names), until))

    while messages:
        names, until = messages.pop()
        ticks.run_in_turns(platform, names, until=until, go_on=go_on)
        jobs.append(left(platform.store)["jobs"])
    assert jobs[:3] == [3, 1, 0]
    assert left(platform.store) == {"jobs": 0, "output": 0, "files.files": 0, "files.chunks": 0}


def test_it_does_not_go_on_when_beat_sends_the_next_anyway(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 1)
    monkeypatch.setattr(retention, "SLICE_SECONDS", 0)
    for _ in range(3):
        ended_job(platform)
    clock.advance(31 * DAY)
    told: list[int] = []

    def go_on(_names: Sequence[str], until: int, _expiration: float) -> None:
        told.append(until)

    ticks.run_in_turns(platform, ["retention"], until=None, go_on=go_on)
    clock.advance(platform.settings.retention_tick_seconds + 1)
    ticks.run_in_turns(platform, ["retention"], until=told[0], go_on=go_on)
    assert len(told) == 1
    assert left(platform.store)["jobs"] == 1


def test_what_one_statement_removes_is_bounded_in_number_and_in_bytes() -> None:
    half = files.REMOVED_BYTES // 2
    sizes = [half, half, 1, 3 * half, *[0] * 250]
    groups = list(files.bounded(sizes, key=lambda size: size))
    assert [len(group) for group in groups] == [2, 1, 1, 200, 50]
    assert [size for group in groups for size in group] == sizes


def test_an_upload_that_a_job_names_is_kept_for_another_while(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    used, unused = saved(platform.store, keep_days=1), saved(platform.store, keep_days=1)
    wanted = {"command": "true", "file_id": used.file_id}
    operations.submit(platform, [wanted], by="app")
    clock.advance(2 * DAY)
    tick("retention")
    assert platform.store.files.find(used.file_id) is not None
    assert platform.store.files.find(unused.file_id) is None


@pytest.mark.parametrize(("size", "last"), [(1, "_pieces"), (600_000, "_files")])
def test_what_is_left_of_a_file_that_was_never_finished_is_collected(
    size: int,
    last: str,
    platform: Platform,
    clock: TestClock,
    tick: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The database went away during an upload, so that the upload could not be undone."""

    def away(*_: object, **__: object) -> None:
        raise AutoReconnect

    kept = saved(platform.store, keep_days=30)
    with monkeypatch.context() as patched:
        for insert in ("insert_one", "insert_many"):
            patched.setattr(getattr(platform.store.files, last), insert, away)
        patched.setattr(FileStore, "delete", away)
        with pytest.raises((AutoReconnect, StoreUnavailable)):
            platform.store.files.save(
                io.BytesIO(b"x" * size), filename="a", cap_bytes=10**6, keep=timedelta(days=1)
            )
    there = left(platform.store)
    assert there["files.files"] + there["files.chunks"] > 2
    clock.advance(2 * DAY)
    tick("retention")
    assert left(platform.store) == {"jobs": 0, "output": 0, "files.files": 1, "files.chunks": 1}
    assert platform.store.files.find(kept.file_id) is not None
    assert platform.store.database["files.begun"].count_documents({}) == 0


def test_a_tick_ends_soon_however_many_files_were_never_finished(
    platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep waits for the tick, and holds itself back if it is late."""
    monkeypatch.setattr(retention, "SLICE_SECONDS", 0)
    begun = platform.store.database["files.begun"]
    begun.insert_many([{"_id": f"file-{n}", "at": clock.now()} for n in range(25)])
    clock.advance(2 * DAY)
    left = [25]
    while retention.tick(platform.store, platform.settings).more:
        left.append(begun.count_documents({}))
    assert left == [25, 15, 5, 0]


def test_workers_that_are_long_gone_are_forgotten(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    platform.store.workers.register("old", {"hostname": "h"}, now=clock.now())
    clock.advance(6 * DAY)
    platform.store.workers.register("new", {"hostname": "h"}, now=clock.now())
    clock.advance(2 * DAY)
    tick("retention")
    assert [worker.worker_id for worker in platform.store.workers.listed()] == ["new"]


def test_a_result_that_replaced_the_stream_is_what_is_left_and_goes_as_one(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    """A result may replace the streamed output; the old generation is collected with the job."""
    job = ended_job(platform, kind="http")
    store = platform.store
    store.output.store(
        job.job_id,
        job.attempts,
        [Chunk(seq=0, stream="stdout", data="whole")],
        now=clock.now(),
        generation="g2",
    )
    clock.advance(31 * DAY)
    tick("retention")
    assert left(store)["output"] == 0


def test_a_retry_keeps_the_upload_of_a_job_that_is_gone(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    used = saved(platform.store, keep_days=1)
    (job_id,) = operations.submit(
        platform, [{"command": "true", "file_id": used.file_id}], by="app"
    )
    operations.cancel(platform, job_id, by="op", reason=None)
    clock.advance(29 * DAY)
    again = operations.retry(platform, job_id, by="op")
    clock.advance(2 * DAY)
    tick("retention")
    assert platform.store.jobs.find(job_id) is None
    assert again.file_id == used.file_id
    assert platform.store.files.find(used.file_id) is not None


def test_only_jobs_that_have_ended_have_a_time_to_go(platform: Platform) -> None:
    job = factories.running_job()
    assert job.expire_at is None
    ended = lifecycle.finish(job, lease_of(job), Outcome(), at=platform.moment())
    kept = ended.changes["expireAt"] - ended.changes["completedAt"]
    assert kept == timedelta(days=platform.settings.job_retention_days)


def test_a_result_that_is_another_jobs_input_stays_until_nobody_names_it(
    platform: Platform, clock: TestClock, tick: Callable[[str], None]
) -> None:
    ended = ended_job(platform)
    other = factories.queued_job(now=clock.now(), file_id=ended.result_file_id)
    platform.store.jobs.submit([other])
    clock.advance(31 * DAY)
    tick("retention")
    assert platform.store.jobs.find(ended.job_id) is None
    assert platform.store.files.find(ended.result_file_id or "") is not None
    platform.store.database["jobs"].delete_many({})
    clock.advance(31 * DAY)
    tick("retention")
    assert left(platform.store)["files.files"] == 0
