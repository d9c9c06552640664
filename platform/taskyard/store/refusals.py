"""Make refused late writes visible: in the platform's counters, on the job and in its history.

These writes are not transitions: state, lease and attempts stay untouched, so an ended job may be
written here too.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events
from taskyard.documents import to_record
from taskyard.jobs import refusal
from taskyard.jobs.counters import Counter
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.refusal import Write
from taskyard.jobs.transition import HISTORY_KEPT
from taskyard.store.counters import CounterStore

#: How long an agent whose write was refused waits at most for the note of it.
NOTE_SECONDS = 2.0

#: How often to try the history line; it is made anew when the job changed meanwhile.
_TRIES = 3


class RefusalStore:
    """Notes refused writes."""

    def __init__(self, database: Database[dict[str, Any]], counters: CounterStore) -> None:
        self._jobs = database["jobs"]
        self._counters = counters

    def note(self, lease: Lease, write: Write, *, now: datetime) -> None:
        """Note that a write under ``lease`` was refused, if its attempt is over.

        A repeated write of the holder is not noted. Errors of MongoDB are only logged.
        """
        try:
            with pymongo.timeout(NOTE_SECONDS):
                self._note(lease, write, now)
        except PyMongoError as error:
            events.warn("job.refusal_not_noted", job=lease.job_id, error=type(error).__name__)

    def _note(self, lease: Lease, write: Write, now: datetime) -> None:
        job = self._find(lease.job_id)
        if job is None or not refusal.is_late(job, lease, write):
            return
        self._counters.add({Counter.REFUSED_WRITES.of(write): 1})
        events.warn(
            "job.stale_write_refused",
            job=lease.job_id,
            attempt=lease.attempt,
            worker=lease.worker_id,
            write=str(write),
        )
        self._write(job, lease, write, now)

    def _write(self, job: Job, lease: Lease, write: Write, now: datetime) -> None:
        counted: dict[str, Any] = {"$inc": {"refusedWrites": 1}}
        for _ in range(_TRIES):
            line = refusal.entry(job, lease, write, now)
            if line is None:
                break
            # Matches only the history that was read, so that the line fits there and is added once.
            as_read = {"_id": job.job_id, "history": [dict(entry) for entry in job.history]}
            push = {"history": {"$each": [dict(line)], "$slice": -HISTORY_KEPT}}
            if self._jobs.update_one(as_read, {**counted, "$push": push}).matched_count:
                return
            job = self._find(lease.job_id) or job
        self._jobs.update_one({"_id": lease.job_id}, counted)

    def _find(self, job_id: str) -> Job | None:
        found = self._jobs.find_one({"_id": job_id})
        return to_record(Job, found) if found else None
