"""Retention: removes what is old, children first, so that a crash leaves no orphans."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskyard import events
from taskyard.jobs.model import Job
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.store.files import bounded

#: No upload and no archive takes longer to send than this.
SENT_WITHIN = timedelta(days=1)

#: How long one tick may remove things; other ticks of the same scheduler wait for it.
SLICE_SECONDS = 1.0

#: Most jobs or files that are read at once.
AT_ONCE = 200

#: Most unfinished files that are removed at once: how large each is, nobody knows.
UNFINISHED = 10


@dataclass(frozen=True, kw_only=True)
class RetentionReport:
    """What one retention tick removed; with ``more`` there is something left to remove."""

    jobs: int
    files: int
    workers: int
    more: bool


def tick(store: Store, settings: Settings) -> RetentionReport:
    """Remove ended jobs, unused files and long-gone workers whose retention is over."""
    now, ends = store.clock.now(), time.monotonic() + SLICE_SECONDS
    jobs, more_jobs = _remove_jobs(store, now, ends)
    files, more_files = _remove_files(store, settings, now, ends)
    report = RetentionReport(
        jobs=jobs,
        files=files,
        workers=store.workers.forget(
            silent_since=now - timedelta(days=settings.worker_retention_days)
        ),
        more=more_jobs or more_files,
    )
    if report.jobs or report.files or report.workers:
        events.emit(
            "scheduler.retired", jobs=report.jobs, files=report.files, workers=report.workers
        )
    return report


def _remove_jobs(store: Store, now: datetime, ends: float) -> tuple[int, bool]:
    """Remove expired jobs until ``ends``; return how many, and whether there are more."""
    removed, more = 0, True
    while more:
        expired, before = store.queries.expired(now, limit=AT_ONCE), removed
        for jobs in bounded(expired, key=lambda job: job.output_bytes):
            removed += _remove(store, jobs)
            if time.monotonic() > ends:
                return removed, True
        more = len(expired) == AT_ONCE and removed > before
    return removed, False


def _remove(store: Store, jobs: Sequence[Job]) -> int:
    """Remove ended jobs: output and results first, then the jobs themselves."""
    job_ids = [job.job_id for job in jobs]
    store.output.delete(job_ids)
    results = [job.result_file_id for job in jobs if job.result_file_id]
    # One job's result may be another's input: it is removed when no job names it any more.
    inputs = store.queries.inputs_among(results)
    store.files.delete([file_id for file_id in results if file_id not in inputs])
    return store.jobs.delete(job_ids)


def _remove_files(store: Store, settings: Settings, now: datetime, ends: float) -> tuple[int, bool]:
    """Remove the expired files that no job names, until ``ends``; keep those in use for longer.

    Returns how many were removed, and whether there are more.
    """
    removed, begun_before = 0, now - SENT_WITHIN
    while some := store.files.collect_unfinished(begun_before=begun_before, limit=UNFINISHED):
        removed += some
        if time.monotonic() > ends:
            return removed, True
    more = True
    while more:
        expired = store.files.expired(now, limit=AT_ONCE)
        used = store.queries.used_files(expired)
        if used:
            store.files.keep_until(used, now + timedelta(days=settings.upload_retention_days))
        unused = [file_id for file_id in expired if file_id not in used]
        store.files.delete(unused)
        removed += len(unused)
        more = len(expired) == AT_ONCE
        if time.monotonic() > ends:
            return removed, more
    return removed, False
