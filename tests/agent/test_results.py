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
from taskyard.store.output import Chunk
from tests import factories
from tests.conftest import TestClock
from tests.helpers import eventually

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


@pytest.mark.parametrize("printed", ["", "first\n"], ids=["in a group", "alone"])
def test_it_is_told_when_a_job_is_to_run_again(world: World, printed: str) -> None:
    ends, again = world.running(), world.running(retry_on_exit=True)
    world.write(world.result(ends, FAILED))
    assert world.requeued == []
    world.results.add(world.result(again, FAILED, printed))
    eventually(lambda: world.requeued)
    assert len(world.reported) == 2


def test_a_job_that_waited_for_its_place_began_with_its_first_line(world: World) -> None:
    job = world.running()
    result = world.result(job, Outcome())
    result.held.spawned_at = began = world.store.clock.now()
    world.write(dataclasses.replace(result))
    assert world.get(job).started_at == began
