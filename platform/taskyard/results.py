"""Celery's result backend: for a job's id it answers from the job itself, without extra writes."""

from __future__ import annotations

from typing import Any

from celery import states
from celery.backends.mongodb import MongoBackend

from taskyard.jobs.states import JobStatus

_STATES = {
    JobStatus.QUEUED: states.PENDING,
    JobStatus.ASSIGNED: states.RECEIVED,
    JobStatus.RUNNING: states.STARTED,
    JobStatus.COMPLETED: states.SUCCESS,
    JobStatus.FAILED: states.FAILURE,
    JobStatus.CANCELLED: states.REVOKED,
}


class JobFailed(Exception):
    """The error that ``AsyncResult(jobId).get()`` raises for a job that ended without success."""


class JobBackend(MongoBackend):  # type: ignore[misc] # Celery publishes no types
    """Celery's MongoDB backend that also knows jobs; other tasks are stored as always."""

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        """The state of a job, or of any other task."""
        job = self.database["jobs"].find_one({"_id": task_id})
        if job is None:
            meta: dict[str, Any] = super()._get_task_meta_for(task_id)
            return meta
        status = JobStatus(job["status"])
        return {
            "task_id": task_id,
            "status": _STATES[status],
            "result": _result(status, job),
            "date_done": job.get("completedAt"),
            "traceback": None,
            "children": [],
        }


def _result(status: JobStatus, job: dict[str, Any]) -> Any:
    if status in (JobStatus.FAILED, JobStatus.CANCELLED):
        return JobFailed(job.get("errorMessage") or str(status))
    return {"exitCode": job.get("exitCode"), "resultFileId": job.get("resultFileId")}
