"""What an agent writes about its jobs: each a guarded write under the attempt's lease."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from taskyard import events
from taskyard.context import Platform
from taskyard.errors import NotFound, StaleAttempt, StoreUnavailable
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.states import JobStatus, Verb
from taskyard.jobs.transition import Moment, Outcome, Transition
from taskyard.store.chunks import Chunk
from taskyard.store.failures import is_unavailable
from taskyard.store.output import Printed

T = TypeVar("T")

#: Pause between two tries while there is no primary.
RETRY_SECONDS = 0.5

_ENDS = (Verb.COMPLETE, Verb.FAIL, Verb.TIME_OUT)


class Reporter:
    """Writes for the runner; None means that the attempt is over, or that the write was given up.

    While MongoDB does not answer, it tries again: a running job goes on, and its output and result
    are delivered afterwards. If the answer to a write was lost, the next try is refused because of
    that write; the job is then read back, as a majority has it, to find that out.
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

        def begin(job: Job) -> Transition:
            at = self._platform.moment()
            return lifecycle.start(job, lease, at=at, lease_until=at.now + until)

        def ours(job: Job) -> bool:
            return job.status is JobStatus.RUNNING and lease.covers(job)

        return self._persist(lease, Write.START, self._moving(lease, begin, ours))

    def release(self, lease: Lease, reason: str) -> Job | None:
        """Give back a job that was not spawned."""

        def give_back(job: Job) -> Transition:
            return lifecycle.release(job, lease, reason=reason, at=self._platform.moment())

        def given_back(job: Job) -> bool:
            return _told(job, lease, Verb.RELEASE)

        return self._persist(lease, Write.RELEASE, self._moving(lease, give_back, given_back))

    def output(
        self, job: Job, chunks: Sequence[Chunk], *, total_bytes: int, truncated: bool
    ) -> bool | None:
        """Store chunks and note the progress; None when the attempt is over.

        An agent that is stopped before the note, and wakes when the attempt is over, is refused and
        removes the chunks that it stored.
        """
        printed = Printed(
            job=job,
            chunks=chunks,
            total_bytes=total_bytes,
            truncated=truncated,
            at=self._store.clock.now(),
        )

        def write() -> bool:
            try:
                self._store.output.put(printed)
            except StaleAttempt:
                if not self._counts(printed):
                    self._store.output.take_back(job.job_id, job.attempts, chunks)
                raise
            return True

        return self._persist(lease_of(job), Write.OUTPUT, write)

    def end_all(
        self,
        transitions: Sequence[Transition],
        printed: Sequence[tuple[Job, Sequence[Chunk]]],
    ) -> list[Transition]:
        """Perform the transitions whose guards match, and return them; none once closed.

        ``printed`` is the last output of some of these jobs. It is stored before: who hears that a
        job has ended finds all of its output. ``finish`` removes what the guard then refused.
        """
        now = self._store.clock.now()

        def write() -> list[Transition]:
            self._store.output.store_all(printed, now=now)
            return self._store.jobs.apply_all(transitions)

        try:
            return self.insist(write)
        except StoreUnavailable:
            return []

    def finish(
        self,
        lease: Lease,
        outcome: Outcome,
        *,
        at: Moment,
        printed: Sequence[Chunk] = (),
        tried: bool = False,
    ) -> Job | None:
        """Record how the attempt ended, and when: the write may come much later.

        ``printed`` is the last of its output; if the end is refused, it is removed again. With
        ``tried``, ``end_all`` may have written this end already.
        """
        output, now = self._store.output, self._store.clock.now()

        def end(job: Job) -> Transition:
            return lifecycle.finish(job, lease, outcome, at=at)

        move = self._moving(lease, end, lambda job: _told(job, lease, *_ENDS), tried=tried)

        def move_with_output() -> Job:
            assert lease.attempt is not None
            output.store(lease.job_id, lease.attempt, printed, now=now)
            try:
                return move()
            except (StaleAttempt, NotFound):
                output.take_back(lease.job_id, lease.attempt, printed)
                raise

        return self._persist(lease, Write.RESULT, move_with_output if printed else move)

    def insist(self, act: Callable[[], T]) -> T:
        """Do what needs the store, again and again while that is away.

        Raises what ``act`` raises otherwise, and StoreUnavailable once the reporter is closed.
        """
        while True:
            try:
                return act()
            except Exception as error:
                if not is_unavailable(error):
                    raise
                events.warn("agent.store_unavailable", error=type(error).__name__)
            if self._closed.wait(RETRY_SECONDS):
                raise StoreUnavailable("The agent stopped before MongoDB answered.")

    def _counts(self, printed: Printed) -> bool:
        """Whether a note counted the chunks before the attempt was over: its answer was lost."""
        job = self._store.jobs.confirmed(printed.job.job_id)
        if job is None or job.output_attempt != printed.job.attempts:
            return False
        counted = (job.output_bytes, job.output_truncated)
        return counted >= (printed.total_bytes, printed.truncated)

    def _moving(
        self,
        lease: Lease,
        decide: Callable[[Job], Transition],
        done: Callable[[Job], bool],
        *,
        tried: bool = False,
    ) -> Callable[[], Job]:
        """Return a function that makes one transition, or raises what refuses it.

        ``done`` tells whether an earlier try has made it; with ``tried``, there was one before.
        """
        tries = itertools.count()

        def write() -> Job:
            again = next(tries) > 0 or tried
            try:
                return self._store.jobs.change(lease.job_id, decide)
            except StaleAttempt:
                job = self._store.jobs.confirmed(lease.job_id) if again else None
                if job is not None and done(job):
                    return job
                raise

        return write

    def _persist(self, lease: Lease, kind: Write, write: Callable[[], T]) -> T | None:
        """Write until that succeeds, is refused, or the reporter is closed.

        A refusal is noted on the job.
        """
        try:
            return self.insist(write)
        except (StaleAttempt, NotFound) as refusal:
            events.warn("agent.write_refused", reason=type(refusal).__name__)
            self._store.refusals.note(lease, kind, now=self._store.clock.now())
        except StoreUnavailable:
            events.warn("agent.write_given_up")
        return None


def _told(job: Job, lease: Lease, *verbs: Verb) -> bool:
    """Whether the job's history has one of these verbs for the attempt."""
    return any(
        entry["verb"] in verbs
        and entry["attempt"] == lease.attempt
        and entry["worker"] == lease.worker_id
        for entry in job.history
    )
