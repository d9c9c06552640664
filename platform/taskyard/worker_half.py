"""What HTTP agents of any language do: register, heartbeat, take a job, stream output, report.

Fencing by attempt and lease is for agents that send them; for the others the worker alone is the
guard, and a registration is a new boot (``docs/lifecycle.md``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from taskyard.context import Platform
from taskyard.errors import Forbidden, NotFound, StaleAttempt
from taskyard.jobs import lifecycle, refusal
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.refusal import Write
from taskyard.jobs.retry import Cause
from taskyard.jobs.states import JobStatus
from taskyard.jobs.transition import Outcome, Transition, shortened
from taskyard.scheduler import polling
from taskyard.store.chunks import Chunk, cut, pieces
from taskyard.workers.model import Worker

#: How many lost jobs of one heartbeat are noted; of an agent that lost more, these are enough.
LOST_NOTED = 100


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The answer to a heartbeat: jobs to stop, and jobs that the worker does not hold any more."""

    worker: Worker
    cancel: Sequence[str]
    lost: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Result:
    """What an HTTP agent reports of a command that ended."""

    exit_code: int
    stdout: str | None = None
    stderr: str | None = None
    #: Stores the result archive, if there is one; returns its stored fields. Called only when the
    #: result is to be recorded.
    store_archive: Callable[[], Mapping[str, Any]] = dict


def register(platform: Platform, worker_id: str, facts: Mapping[str, Any]) -> Worker:
    """Begin a new boot of the worker, and have waiting jobs placed."""
    boot = {"kind": "http", "bootId": secrets.token_hex(8)}
    now = platform.store.clock.now()
    worker = platform.store.workers.register(worker_id, {**facts, **boot}, now=now)
    platform.nudge("register")
    return worker


def heartbeat(
    platform: Platform, worker_id: str, facts: Mapping[str, Any], job_ids: Sequence[str]
) -> Beat:
    """Note that the worker is alive and renew its leases; an unknown worker is registered.

    Raises Gone for a deleted worker.
    """
    store = platform.store
    try:
        worker = store.workers.heartbeat(worker_id, facts, now=store.clock.now())
    except NotFound:
        worker = register(platform, worker_id, facts)
    held = store.leases.renew_seen(
        worker, job_ids, now=store.clock.now(), lease=_http_lease(platform)
    )
    lost = sorted(set(job_ids) - {renewed.lease.job_id for renewed in held})
    for job_id in lost[:LOST_NOTED]:
        _note(platform, Lease(job_id=job_id, worker_id=worker_id), Write.HEARTBEAT)
    return Beat(
        worker=worker,
        cancel=[renewed.lease.job_id for renewed in held if renewed.cancel_requested],
        lost=lost,
    )


def poll(platform: Platform, worker_id: str) -> Job | None:
    """The best queued job that fits this worker, RUNNING under it now; or None.

    Raises NotFound, Gone.
    """
    worker = platform.store.workers.get(worker_id)
    return polling.poll(platform.store, platform.settings, worker)


def stream(platform: Platform, lease: Lease, *, stream: str, data: str, seq: int | None) -> None:
    """Append output. Raises NotFound, and StaleAttempt for an attempt that is over."""
    with _noted(platform, lease, Write.OUTPUT):
        sender = _sender(platform, lease)
        job = _running(platform, lease)
        platform.store.output.append(
            job,
            stream,
            data,
            seq=seq,
            now=platform.store.clock.now(),
            lease=_http_lease(platform) if _may_live(platform, job, sender) else None,
        )


def cancel_requested(platform: Platform, lease: Lease) -> bool:
    """Whether the agent has to stop the job: a cancel was requested, its worker was deleted, or it
    does not hold the job any more.
    """
    job = platform.store.jobs.get(lease.job_id)
    known = bool(lease.worker_id or lease.attempt or lease.lease_id)
    named = _named(lease, job)
    if known and (job.status is not JobStatus.RUNNING or not named.covers(job)):
        _note(platform, named, Write.CANCEL)
        return True
    if job.status is JobStatus.RUNNING and job.agent_kind == "http":
        if not _may_live(platform, job):
            return True
        now = platform.store.clock.now()
        platform.store.leases.show_life(job, now=now, lease=_http_lease(platform))
    return job.cancel_requested


def submit_result(platform: Platform, lease: Lease, result: Result) -> Job:
    """Record how a command ended; the same result sent twice is recorded once.

    Raises NotFound, Forbidden for a worker that does not hold the job, StaleAttempt, and what
    storing its archive raises.
    """
    job = platform.store.jobs.get(lease.job_id)
    if _recorded(job, lease):
        # An agent that is told so never sends it again: a majority must have it first.
        job = platform.store.jobs.confirmed(lease.job_id) or job
        if _recorded(job, lease):
            return job
    with _noted(platform, lease, Write.RESULT):
        _require_holder(platform, job, lease)
        return _record(platform, job, lease, result)


def report_failure(platform: Platform, lease: Lease, message: str) -> Job:
    """The worker failed, not the command: the worker cools down, and the job is tried again.

    Raises NotFound, Forbidden, StaleAttempt.
    """
    job = platform.store.jobs.get(lease.job_id)
    with _noted(platform, lease, Write.RESULT):
        _require_holder(platform, job, lease)
        outcome = Outcome(cause=Cause.AGENT, detail=message)
        platform.store.workers.record_failure(
            lease.worker_id,
            reason=shortened(message),
            now=platform.store.clock.now(),
            cooldown=timedelta(seconds=platform.settings.cooldown_seconds),
        )
        return _finish(platform, job, lease, outcome)


def _record(platform: Platform, job: Job, lease: Lease, result: Result) -> Job:
    fields = {**result.store_archive(), **_replace_output(platform, job, result)}
    code = result.exit_code
    outcome = Outcome(
        cause=Cause.EXIT if code else None,
        detail=f"exit code {code}",
        exit_code=code,
        fields=fields,
    )
    return _finish(platform, job, lease, outcome)


def _finish(platform: Platform, job: Job, lease: Lease, outcome: Outcome) -> Job:
    def end(current: Job) -> Transition:
        return lifecycle.finish(current, lease, outcome, at=platform.moment())

    ended = platform.store.jobs.change(lease.job_id, end, known=job)
    if ended.status is JobStatus.QUEUED:
        platform.nudge("retry")
    return ended


def _running(platform: Platform, lease: Lease) -> Job:
    """The job, if it runs under this lease. Raises NotFound, StaleAttempt."""
    job = platform.store.jobs.get(lease.job_id)
    if job.status is not JobStatus.RUNNING or not _named(lease, job).covers(job):
        raise StaleAttempt(lease.job_id)
    return job


def _named(lease: Lease, job: Job) -> Lease:
    """The lease with a worker: a request that names none is taken for the holder's."""
    return replace(lease, worker_id=lease.worker_id or job.assigned_agent_id or "")


def _recorded(job: Job, lease: Lease) -> bool:
    """Whether this attempt's result was recorded before."""
    return refusal.ended_by_holder(job) and lease.covers(job)


def _require_holder(platform: Platform, job: Job, lease: Lease) -> None:
    """Raises StaleAttempt for an attempt or lease that is over, Forbidden for another worker."""
    _sender(platform, lease)
    if lease.attempt not in (None, job.attempts) or lease.lease_id not in (None, job.lease_id):
        raise StaleAttempt(job.job_id)
    if job.assigned_agent_id != lease.worker_id:
        raise Forbidden(f"Worker {lease.worker_id!r} does not hold {job.job_id}.")
    if job.status is not JobStatus.RUNNING or not lease.covers(job):
        raise StaleAttempt(job.job_id)


@contextmanager
def _noted(platform: Platform, lease: Lease, write: Write) -> Iterator[None]:
    """Note a write that is refused inside, and raise the refusal again."""
    try:
        yield
    except (Forbidden, StaleAttempt):
        _note(platform, lease, write)
        raise


def _note(platform: Platform, lease: Lease, write: Write) -> None:
    platform.store.refusals.note(lease, write, now=platform.store.clock.now())


def _sender(platform: Platform, lease: Lease) -> Worker | None:
    """The worker that sends a write, if it says its name; whether it sends leases is noted."""
    worker = platform.store.workers.find(lease.worker_id) if lease.worker_id else None
    if worker and not worker.fenced and (lease.attempt or lease.lease_id):
        platform.store.workers.mark_fenced(worker.worker_id)
    return worker


def _may_live(platform: Platform, job: Job, sender: Worker | None = None) -> bool:
    """Whether a sign of life renews the lease: of an HTTP agent's job, unless its worker is
    deleted.
    """
    if job.agent_kind != "http":
        return False
    worker = sender or platform.store.workers.find(job.assigned_agent_id or "")
    return worker is None or not worker.soft_deleted


def _http_lease(platform: Platform) -> timedelta:
    return timedelta(seconds=platform.settings.http_lease_seconds)


def _replace_output(platform: Platform, job: Job, result: Result) -> dict[str, Any]:
    """Write the result's whole text as a new generation; returns the fields by which the finishing
    write makes it the job's output.

    A stream that the result leaves out keeps what was streamed of it.
    """
    given = {"stdout": result.stdout, "stderr": result.stderr}
    if all(text is None for text in given.values()):
        return {}
    generation = secrets.token_hex(6)
    cap_bytes = room = platform.settings.output_cap_bytes
    chunks: list[Chunk] = []
    for stream_name, text in given.items():
        if text is None:
            text = platform.store.output.text(job, stream=stream_name, limit_bytes=cap_bytes)
        size = len(text.encode())
        # Nothing is left to cut of an empty text, also where there is no room.
        kept = text if size <= max(0, room) else cut(text, max(0, room), cap_bytes)
        room -= size
        chunks.extend(pieces(stream_name, kept, len(chunks)))
    if chunks:
        now = platform.store.clock.now()
        platform.store.output.store(
            job.job_id, job.attempts, chunks, now=now, generation=generation
        )
    return {
        "outputGeneration": generation,
        "outputBytes": min(cap_bytes, cap_bytes - room),
        "outputTruncated": room < 0,
    }
