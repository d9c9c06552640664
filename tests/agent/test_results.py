"""Results are written together, and each is decided by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from taskyard.agent.held import Held
from taskyard.agent.reporting import Reporter
from taskyard.agent.results import Result, Results
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Outcome
from taskyard.store.chunks import Chunk
from taskyard.store.jobs import JobStore
from taskyard.store.output import SMALL_BYTES, OutputStore
from tests import factories
from tests.conftest import TestClock
from tests.helpers import eventually

MUCH = "much\n" * SMALL_BYTES

FAILED = Outcome(cause=Cause.EXIT, detail="exit code 1", exit_code=1)


class World:
    """Running jobs of one agent, and the writer of their results."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.store = platform.store
        self.reported: list[Held] = []
        self.requeued: list[bool] = []
        self.results = Results(
            Reporter(platform),
            ThreadPoolExecutor(2),
            self.reported.extend,
            lambda: self.requeued.append(True),
        )

    def running(self, **fields: Any) -> Job:
        job = factories.running_job(now=self.store.clock.now(), **fields)
        self.store.jobs.submit([job])
        return job

    def result(self, job: Job, outcome: Outcome, printed: str = "") -> Result:
        chunks = [Chunk(seq=0, stream="stdout", data=printed)] if printed else []
        return Result(
            held=Held(job=job),
            outcome=outcome,
            at=self.platform.moment(),
            chunks=chunks,
            output_bytes=len(printed),
        )

    def write(self, *results: Result) -> None:
        """Write results as one group: all of them are added before the writer starts."""
        for result in results:
            self.results.add(result)
        self.results.start()
        eventually(lambda: len(self.reported) == len(results))

    def get(self, job: Job) -> Job:
        return self.store.jobs.get(job.job_id)

    def printed(self, job: Job, attempt: int | None = None) -> str:
        read = self.store.output.read(self.get(job), attempt=attempt)
        return "".join(chunk.data for chunk in read)


def refusing(*_: object) -> None:
    raise RuntimeError("a defect")


@pytest.fixture
def world(platform: Platform) -> Iterator[World]:
    made = World(platform)
    yield made
    made.results.stop()


def test_a_group_is_one_write_and_each_job_ends_as_it_ended(world: World) -> None:
    fine, bad, quiet = (world.running() for _ in range(3))
    world.write(
        world.result(fine, Outcome(), "hi\n"),
        world.result(bad, FAILED),
        world.result(quiet, Outcome()),
    )
    ended = [world.get(job) for job in (fine, bad, quiet)]
    assert [job.status for job in ended] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert [job.output_bytes for job in ended] == [3, 0, 0]
    assert world.printed(fine) == "hi\n"
    assert world.store.database["output"].count_documents({}) == 0, "it came with the end"


def test_output_that_does_not_fit_in_the_job_is_stored_with_that_of_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    inserts: list[int] = []
    store_all = OutputStore.store_all

    def count(self: OutputStore, printed: Any, **named: Any) -> None:
        inserts.append(len(printed))
        store_all(self, printed, **named)

    monkeypatch.setattr(OutputStore, "store_all", count)
    loud, quiet, again = world.running(), world.running(), world.running(retry_on_exit=True)
    world.write(
        world.result(loud, Outcome(), MUCH),
        world.result(quiet, Outcome(), "hi\n"),
        world.result(again, FAILED, "no\n"),
    )
    assert inserts == [2]
    assert [world.printed(job) for job in (loud, quiet, again)] == [MUCH, "hi\n", "no\n"]
    assert world.get(loud).output_bytes == len(MUCH)
    assert world.get(loud).last_streamed_at is not None
    assert world.store.database["output"].count_documents({}) == 2


def test_the_last_of_much_output_joins_what_was_stored_before(world: World) -> None:
    job = world.running()
    first = [Chunk(seq=0, stream="stdout", data=MUCH)]
    assert Reporter(world.platform).output(job, first, total_bytes=len(MUCH), truncated=False)
    result = world.result(job, Outcome())
    last = [Chunk(seq=1, stream="stdout", data="end\n")]
    world.write(dataclasses.replace(result, chunks=last, output_bytes=len(MUCH) + 4))
    assert world.printed(job) == MUCH + "end\n"
    assert world.get(job).output_bytes == len(MUCH) + 4


def test_small_output_that_was_cut_says_so(world: World) -> None:
    job = world.running()
    world.write(dataclasses.replace(world.result(job, Outcome(), "cut"), output_truncated=True))
    assert world.get(job).output_truncated


def test_what_was_ended_before_its_answer_was_lost_keeps_its_output(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group is reported as failed although it was written: each job is then tried alone."""
    apply_all = JobStore.apply_all

    def perform_and_fail(self: JobStore, transitions: Any) -> None:
        apply_all(self, transitions)
        raise RuntimeError("a defect")

    monkeypatch.setattr(JobStore, "apply_all", perform_and_fail)
    job = world.running()
    world.write(world.result(job, Outcome(), MUCH))
    ended = world.get(job)
    assert (ended.status, ended.refused_writes) == ("COMPLETED", 0)
    assert world.printed(job) == MUCH


def test_the_last_output_of_an_attempt_that_was_lost_is_removed(world: World) -> None:
    lost, other = world.running(), world.running()
    world.store.database["jobs"].update_one({"_id": lost.job_id}, {"$set": {"leaseId": "x"}})
    world.write(world.result(lost, Outcome(), MUCH), world.result(other, Outcome(), MUCH))
    assert world.get(lost).refused_writes == 1
    assert (world.printed(lost), world.printed(other)) == ("", MUCH)


def test_a_job_that_was_asked_to_be_cancelled_meanwhile_is_decided_anew(world: World) -> None:
    asked, other = world.running(), world.running()
    moment = world.platform.moment()
    assert world.store.jobs.apply(lifecycle.cancel(asked, by="op", reason=None, at=moment))
    world.write(world.result(asked, FAILED, "some\n"), world.result(other, Outcome()))
    assert [world.get(job).status for job in (asked, other)] == ["CANCELLED", "COMPLETED"]
    assert world.printed(asked) == "some\n"


def test_a_result_that_has_to_be_written_again_tells_when_the_job_had_ended(
    world: World, clock: TestClock
) -> None:
    job = world.running()
    result = world.result(job, FAILED)
    # The agent's copy of the job is outdated now, so the result is decided anew, alone.
    world.store.database["jobs"].update_one(
        {"_id": job.job_id}, {"$set": {"cancelRequested": True}}
    )
    clock.advance(5)
    world.write(result)
    ended = world.get(job)
    assert (ended.status, ended.completed_at) == ("CANCELLED", result.at.now)


def test_a_job_that_was_lost_meanwhile_is_refused_alone(world: World) -> None:
    lost, other = world.running(), world.running()
    world.store.database["jobs"].update_one({"_id": lost.job_id}, {"$set": {"leaseId": "x"}})
    world.write(world.result(lost, Outcome()), world.result(other, Outcome()))
    assert [world.get(job).status for job in (lost, other)] == ["RUNNING", "COMPLETED"]
    assert world.get(lost).refused_writes == 1


def test_output_of_an_attempt_that_is_tried_again_is_kept_apart(world: World) -> None:
    job = world.running(retry_on_exit=True)
    world.write(world.result(job, FAILED, "first\n"))
    assert world.get(job).status is JobStatus.QUEUED
    assert world.printed(job, attempt=1) == "first\n"


@pytest.mark.parametrize("alone", [False, True], ids=["in a group", "alone"])
def test_it_is_told_when_a_job_is_to_run_again(
    world: World, monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    ends, again = world.running(), world.running(retry_on_exit=True)
    world.write(world.result(ends, FAILED))
    assert world.requeued == []
    if alone:
        monkeypatch.setattr(JobStore, "apply_all", refusing)
    world.results.add(world.result(again, FAILED, "first\n"))
    eventually(lambda: world.requeued)
    assert len(world.reported) == 2


def test_a_job_that_waited_for_its_place_began_with_its_first_line(world: World) -> None:
    job = world.running()
    result = world.result(job, Outcome())
    result.held.spawned_at = began = world.store.clock.now()
    world.write(dataclasses.replace(result))
    assert world.get(job).started_at == began
