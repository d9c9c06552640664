"""Retention: what is old goes, children first, so that a crash leaves no orphan."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from taskyard import events
from taskyard.settings import Settings
from taskyard.store.client import Store

#: No upload and no archive takes longer to send than this.
SENT_WITHIN = timedelta(days=1)

#: Jobs and files that one tick removes; the next is a minute away.
AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class RetentionReport:
    """What one retention tick removed."""

    jobs: int = 0
    files: int = 0
    workers: int = 0


def tick(store: Store, settings: Settings) -> RetentionReport:
    """Remove ended jobs, unused files and long-gone workers whose time is over."""
    now = store.clock.now()
    expired = store.queries.expired(now, limit=AT_ONCE)
    for job in expired:
        remove(store, job.job_id, result_file_id=job.result_file_id)
    report = RetentionReport(
        jobs=len(expired),
        files=_remove_files(store, settings),
        workers=store.workers.forget(
            silent_since=now - timedelta(days=settings.worker_retention_days)
        ),
    )
    if report.jobs or report.files or report.workers:
        events.emit(
            "scheduler.retired", jobs=report.jobs, files=report.files, workers=report.workers
        )
    return report


def remove(store: Store, job_id: str, *, result_file_id: str | None) -> None:
    """Remove an ended job: output and result first, then the job itself."""
    store.output.delete(job_id)
    if result_file_id:
        store.files.delete(result_file_id)
    store.jobs.delete(job_id)


def _remove_files(store: Store, settings: Settings) -> int:
    """Remove the files that no job names any more; one in use is kept for another while."""
    now = store.clock.now()
    removed = store.files.collect_unfinished(begun_before=now - SENT_WITHIN, limit=AT_ONCE)
    for file_id in store.files.expired(now, limit=AT_ONCE):
        if store.queries.uses_file(file_id):
            store.files.keep_until(file_id, now + timedelta(days=settings.upload_retention_days))
        else:
            store.files.delete(file_id)
            removed += 1
    return removed
