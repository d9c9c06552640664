"""Renewal of the leases of running jobs. It is not a transition, so one write renews many."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database

from taskyard.clock import SET_BACK_MS
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.states import JobStatus
from taskyard.store import statements
from taskyard.workers.model import Worker

_HELD = {"assignedAgentId": 1, "attempts": 1, "leaseId": 1, "cancelRequested": 1}


@dataclass(frozen=True, kw_only=True)
class Renewed:
    """A lease that its worker still holds."""

    lease: Lease
    cancel_requested: bool


class LeaseStore:
    """Renewals of the leases that agents hold."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._jobs = database["jobs"]

    def renew(
        self,
        worker_id: str,
        leases: Collection[Lease],
        *,
        now: datetime,
        lease: timedelta,
        grace: timedelta,
    ) -> list[Renewed]:
        """Renew the leases of jobs that this worker really runs; returns those it still holds.

        A lease that ran out is renewed too unless it was expired before: after an outage, the agent
        that still runs the job keeps it. Whichever of ``renew`` and ``expire`` writes first wins.
        """
        if not leases:
            return []
        mine = {
            **_named(leases),
            "assignedAgentId": worker_id,
            "status": str(JobStatus.RUNNING),
        }
        self._jobs.update_many(mine, extension(now, lease, grace))
        return self._live(mine, now)

    def renew_seen(
        self, worker: Worker, job_ids: Sequence[str], *, now: datetime, lease: timedelta
    ) -> list[Renewed]:
        """Renew the leases of an HTTP agent's jobs that have shown life, as the jobs in ``job_ids``
        do now because the agent named them.

        Jobs of an earlier boot are not renewed here: their leases end, unless the jobs themselves
        show life.
        """
        mine = {
            "assignedAgentId": worker.worker_id,
            "status": str(JobStatus.RUNNING),
            "agentBoot": worker.boot,
        }
        named = {**mine, "_id": {"$in": list(job_ids)}}
        if job_ids:
            self._jobs.update_many(named, {"$set": {"lastSeenAt": now}})
        seen = {**mine, "lastSeenAt": {"$exists": True}}
        self._jobs.update_many(seen, extension(now, lease, lease))
        return self._live(mine, now)

    def show_life(self, job: Job, *, now: datetime, lease: timedelta) -> None:
        """Note a sign of life of the attempt that was read and renew its lease, unless the attempt
        is over.
        """
        self._jobs.update_one(
            statements.still_running(job),
            [{"$set": {"lastSeenAt": now}}, *extension(now, lease, lease)],
        )

    def _live(self, mine: dict[str, Any], now: datetime) -> list[Renewed]:
        """The leases that have not run out: a lease at its job's limit is not renewed further."""
        live = {**mine, "leaseUntil": {"$gte": now}}
        return [
            Renewed(
                lease=Lease(
                    job_id=found["_id"],
                    worker_id=found["assignedAgentId"],
                    attempt=found["attempts"],
                    lease_id=found["leaseId"],
                ),
                cancel_requested=found.get("cancelRequested", False),
            )
            for found in self._jobs.find(live, _HELD)
        ]


def _named(leases: Collection[Lease]) -> dict[str, Any]:
    """Matches the jobs of these leases; by job id too, because a batch may share a lease id."""
    return {
        "_id": {"$in": [lease.job_id for lease in leases]},
        "leaseId": {"$in": list({lease.lease_id for lease in leases})},
    }


def extension(now: datetime, lease: timedelta, grace: timedelta) -> list[dict[str, Any]]:
    """The update that moves a lease forward, but never past the job's own timeout and its grace.

    A lease that is further ahead than a renewal can set it was set before the server's clock was
    set back, so it moves back: else the job of a worker that dies would not be missed until the
    clock had caught up.
    """
    lease_ms, grace_ms = (span.total_seconds() * 1000 for span in (lease, grace))
    limit = {"$add": ["$startedAt", "$timeoutMs", grace_ms]}
    renewed = {"$min": [now + lease, limit]}
    is_ahead = {"$gt": ["$leaseUntil", {"$add": ["$$NOW", lease_ms + SET_BACK_MS]}]}
    moved = {"$cond": [is_ahead, renewed, {"$max": ["$leaseUntil", renewed]}]}
    return [{"$set": {"leaseUntil": moved}}]
