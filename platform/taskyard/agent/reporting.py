"""What an agent tells the job collections: each a guarded write under the attempt's lease."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from taskyard import events
from taskyard.context import Platform
from taskyard.errors import NotFound, StaleAttempt
from taskyard.jobs import lifecycle
from taskyard.jobs.lifecycle import Outcome
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.refusal import Write
from taskyard.store.client import UNAVAILABLE
from taskyard.store.output import Chunk

T = TypeVar("T")

#: Pause between two tries while there is no primary.
RETRY_SECONDS = 0.5


class Reporter:
    """Writes for the runner; None means that the attempt is over and nothing was written.

    While MongoDB does not answer it tries again: a job that runs goes on, and its output and
    result are delivered afterwards.
    """

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._store = platform.store
        self._closed = threading.Event()

    def close(self) -> None:
        """Give up what could not be written by now."""
        self._closed.set()

    def start(self, lease: Lease) -> Job | None:
        """Move the job to RUNNING, if it is still ours to run."""
        until = timedelta(seconds=self._platform.settings.lease_seconds)

        def begin(job: Job) -> lifecycle.Transition:
            at = self._platform.moment()
            return lifecycle.start(job, lease, at=at, lease_until=at.now + until)

        return self._persist(
            lease, Write.START, lambda: self._store.jobs.change(lease.job_id, begin)
        )

    def release(self, lease: Lease, reason: str) -> Job | None:
        """Give a job back that was not spawned."""

        def give_back(job: Job) -> lifecycle.Transition:
            return lifecycle.release(job, lease, reason=reason, at=self._platform.moment())

        return self._persist(
            lease, Write.RELEASE, lambda: self._store.jobs.change(lease.job_id, give_back)
        )

    def output(
        self, job: Job, chunks: Sequence[Chunk], *, total_bytes: int, truncated: bool
    ) -> bool | None:
        """Store chunks and note the progress; None when the attempt is over."""
        now = self._store.clock.now()

        def write() -> bool:
            if not self._store.output.progress(
                job, total_bytes=total_bytes, truncated=truncated, now=now
            ):
                raise StaleAttempt(job.job_id)
            self._store.output.store(job.job_id, job.attempts, chunks, now=now)
            return True

        return self._persist(lease_of(job), Write.OUTPUT, write)

    def finish(self, lease: Lease, outcome: Outcome) -> Job | None:
        """Record how the attempt ended."""

        def end(job: Job) -> lifecycle.Transition:
            return lifecycle.finish(job, lease, outcome, at=self._platform.moment())

        return self._persist(
            lease, Write.RESULT, lambda: self._store.jobs.change(lease.job_id, end)
        )

    def _persist(self, lease: Lease, kind: Write, write: Callable[[], T]) -> T | None:
        """Write until it is written or refused; what is refused is noted on the job.

        A write whose answer was lost is found done on the next try, and then refused: that is
        the same result, recorded once.
        """
        while True:
            try:
                return write()
            except (StaleAttempt, NotFound) as refusal:
                events.warn("agent.write_refused", reason=type(refusal).__name__)
                self._store.refusals.note(lease, kind, now=self._store.clock.now())
                return None
            except UNAVAILABLE as error:
                events.warn("agent.store_unavailable", error=type(error).__name__)
                if self._closed.wait(RETRY_SECONDS):
                    return None
