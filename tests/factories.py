"""Jobs and workers for tests, only such as the platform itself could have written."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from taskyard import ids
from taskyard.clock import epoch_ms
from taskyard.context import Platform
from taskyard.documents import to_document, to_record
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Moment, Outcome, Transition
from taskyard.workers.model import Requirement, Worker

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
LEASE = timedelta(seconds=15)

#: Ids ascend in the order in which jobs are made. With random ids, jobs of the same millisecond are
#: claimed in any order, and tests of that order fail once in a few hundred runs.
_number = itertools.count()


def queued_job(**fields: Any) -> Job:
    """Return a QUEUED job as ``submit`` records it."""
    now = fields.pop("now", NOW)
    labels = tuple(fields.pop("labels", ()))
    cpu, ram_mb = fields.pop("required_cpu", 1), fields.pop("required_ram_mb", 256)
    requirement = Requirement(cpu=cpu, ram_mb=ram_mb, labels=frozenset(labels))
    values: dict[str, Any] = {
        "job_id": f"job-{epoch_ms(now)}-{next(_number):012x}",
        "command": "true",
        "labels": labels,
        "required_cpu": cpu,
        "required_ram_mb": ram_mb,
        "shape": requirement.shape,
        "created_at": now,
        "queued_at": now,
        **fields,
    }
    return Job(**values)


def after(job: Job, transition: Transition) -> Job:
    """Return the job as the store has it after the transition."""
    document = {**to_document(job), **transition.changes}
    for name in transition.cleared:
        document.pop(name, None)
    document["history"] = [*job.history, transition.entry]
    return to_record(Job, document)


def assigned_job(worker_id: str = "w1", **fields: Any) -> Job:
    """Return a job that is assigned to a Celery agent, which has not started it."""
    job = queued_job(**fields)
    at = Moment(now=job.created_at)
    return after(
        job,
        lifecycle.assign(
            job, worker_id=worker_id, lease_id=ids.lease(), at=at, start_by=at.now + LEASE
        ),
    )


def running_job(worker_id: str = "w1", kind: str = "celery", **fields: Any) -> Job:
    """Return a job that runs on a worker."""
    if kind == "celery":
        job = assigned_job(worker_id, **fields)
        at = Moment(now=job.created_at)
        return after(job, lifecycle.start(job, lease_of(job), at=at, lease_until=at.now + LEASE))
    job = queued_job(**fields)
    at = Moment(now=job.created_at)
    return after(
        job,
        lifecycle.claim(
            job,
            worker=worker(worker_id, kind=kind),
            lease_id=ids.lease(),
            at=at,
            lease_until=at.now + LEASE,
        ),
    )


def job_in(status: JobStatus, left: Mapping[str, Any] | None = None, **fields: Any) -> Job:
    """Return a job that verbs have brought to ``status``; its result stores the fields ``left``."""
    if status is JobStatus.QUEUED:
        return queued_job(**fields)
    if status is JobStatus.ASSIGNED:
        return assigned_job(**fields)
    if status is JobStatus.CANCELLED:
        job = queued_job(**fields)
        return after(
            job, lifecycle.cancel(job, by="op", reason=None, at=Moment(now=job.created_at))
        )
    job = running_job(**fields)
    at = Moment(now=job.created_at + timedelta(seconds=1))
    if status is JobStatus.COMPLETED:
        return after(job, lifecycle.finish(job, lease_of(job), Outcome(fields=left or {}), at=at))
    if status is JobStatus.FAILED:
        failed = Outcome(cause=Cause.EXIT, detail="exit code 1", exit_code=1, fields=left or {})
        return after(job, lifecycle.finish(job, lease_of(job), failed, at=at))
    return job


def stored(platform: Platform, status: JobStatus, **fields: Any) -> Job:
    """Store a job in ``status`` and return it."""
    job = job_in(status, now=platform.store.clock.now(), **fields)
    platform.store.jobs.submit([job])
    return job


def worker(worker_id: str = "w1", **fields: Any) -> Worker:
    """Return a healthy worker with 4 CPUs and 8 GB, whose last heartbeat is ``NOW``."""
    values: dict[str, Any] = {
        "worker_id": worker_id,
        "hostname": f"{worker_id}.example",
        "kind": "celery",
        "boot_id": "boot-1",
        "cpu_count": 4,
        "ram_total_mb": 8192,
        "ram_free_mb": 8000,
        "last_heartbeat": NOW,
        **fields,
    }
    return Worker(**values)
