"""Helpers for experiments with single jobs: submit a job, await its runs and its end."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tests.chaos import evidence
from tests.chaos.cluster import Program
from tests.chaos.evidence import Run
from tests.chaos.plan import JobPlan, Submission
from tests.chaos.run import Arena
from tests.helpers import eventually

#: How long an experiment waits for anything, in addition to a few leases.
PATIENCE_SECONDS = 60.0

_numbers = itertools.count()


def submit(arena: Arena, *plans: JobPlan) -> list[str]:
    """Submit these jobs in one request; returns their ids."""
    key = f"experiment-{next(_numbers)}"
    return arena.load.submit(Submission(key=key, at=0, jobs=plans, as_list=True))


def document(arena: Arena, job_id: str) -> Mapping[str, Any]:
    """Return the job's document."""
    found = arena.cluster.database["jobs"].find_one({"_id": job_id})
    assert found is not None, job_id
    return found


def await_run(arena: Arena, job_id: str, attempt: int) -> Run:
    """Wait until the attempt has begun by the jobs' own log, and return its run."""

    def find() -> Run | None:
        runs = evidence.read_log(arena.cluster.job_log)
        mine = (run for run in runs if run.job_id == job_id and run.attempt == attempt)
        return next(mine, None)

    return eventually(find, PATIENCE_SECONDS + 4 * arena.lease)


def await_status(arena: Arena, job_ids: Sequence[str], *statuses: str) -> None:
    """Wait until all these jobs are in one of these states."""
    others = {"_id": {"$in": list(job_ids)}, "status": {"$nin": list(statuses)}}
    jobs = arena.cluster.database["jobs"]
    eventually(lambda: jobs.count_documents(others) == 0, PATIENCE_SECONDS + 6 * arena.lease)


def give_to_stopped(
    arena: Arena, agent: Program, plan: JobPlan, count: int
) -> tuple[list[str], list[str]]:
    """Stop the agent, and submit jobs until some are assigned to it, which it cannot start.

    Returns the ids of all jobs and of those assigned to it. While the machine is busy, the
    scheduler assigns it nothing: then the agent is resumed for a while and stopped again.
    """
    submitted: list[str] = []
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        agent.send(signal.SIGSTOP)
        submitted += submit(arena, *[plan] * count)
        await_status(arena, submitted, "ASSIGNED", "RUNNING", "COMPLETED")
        if given := _assigned(arena, submitted, agent):
            return submitted, given
        agent.send(signal.SIGCONT)
        arena.pause(arena.lease / 3)
    raise AssertionError(f"nothing was given to {agent.name} in {PATIENCE_SECONDS:g} s")


def holder(arena: Arena, job_id: str) -> Program:
    """Return the agent that the job is assigned to now."""
    return arena.cluster.agent(document(arena, job_id)["assignedAgentId"])


def last_lives(arena: Arena, job_ids: Sequence[str]) -> dict[str, Run]:
    """Return the latest run of each job, by job id."""
    wanted = set(job_ids)
    runs = evidence.read_log(arena.cluster.job_log)
    return {run.job_id: run for run in runs if run.job_id in wanted}


def _assigned(arena: Arena, job_ids: Sequence[str], agent: Program) -> list[str]:
    given = {"_id": {"$in": list(job_ids)}, "assignedAgentId": agent.name, "status": "ASSIGNED"}
    return [found["_id"] for found in arena.cluster.database["jobs"].find(given, {"_id": 1})]
