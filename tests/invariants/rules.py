"""The invariants: what must hold in the collections after every step, whatever happened before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from taskyard.agent.admission import Admission
from taskyard.jobs.counters import Counter
from taskyard.jobs.model import Job, lease_of
from taskyard.jobs.states import HELD, TERMINAL, JobStatus, Verb
from taskyard.jobs.transition import HISTORY_KEPT
from taskyard.store.client import Store

#: Rounding errors in sums of fractions of a CPU.
_EPSILON = 1e-9


def check_jobs(jobs: Iterable[Job]) -> None:
    """Check each job by itself: its fields fit its state, and its history leads to that state."""
    for job in jobs:
        held = job.status in HELD
        assert held == (job.lease_until is not None), job
        assert (job.assigned_agent_id is not None) or not held, job
        assert (job.completed_at is not None) == (job.status in TERMINAL), job
        assert 0 <= job.attempts <= job.max_retries + 1, job
        if job.status is JobStatus.QUEUED:
            assert job.lease_id is None, job
        _check_history(job)


def check_capacity(store: Store) -> None:
    """Check that no worker has more in use than it has."""
    usage = store.live.usage()
    for worker in store.workers.listed():
        used = usage.get(worker.worker_id)
        if used is not None:
            assert used.cpu <= worker.cpu_count + _EPSILON, (worker, used)
            assert used.ram_mb <= worker.ram_total_mb, (worker, used)
            assert not worker.max_jobs or len(used.job_ids) <= worker.max_jobs, (worker, used)


def check_running(store: Store, admissions: Mapping[str, Admission]) -> None:
    """Check that the RUNNING jobs which each agent's present boot has admitted fit on its host."""
    for worker_id, admission in admissions.items():
        running = store.live.held_by(worker_id, JobStatus.RUNNING)
        admitted = [job for job in running if admission.has(lease_of(job).key)]
        assert sum(job.required_cpu for job in admitted) <= admission.capacity.cpu_count + _EPSILON
        assert sum(job.required_ram_mb for job in admitted) <= admission.capacity.ram_total_mb


def check_ended_stay(before: dict[str, dict[str, Any]], store: Store) -> None:
    """Check that an ended job is never written again; this keeps ``before`` up to date.

    Only refusals of late writes, and their count, may be added to it.
    """
    statuses = [str(status) for status in TERMINAL]
    for document in store.database["jobs"].find({"status": {"$in": statuses}}):
        moves = [entry for entry in document.pop("history") if entry["verb"] != Verb.REFUSE]
        refused = document.pop("refusedWrites")
        ended = before.setdefault(document["_id"], {**document, "moves": moves, "refused": 0})
        # Refusals may push out the oldest of the 40 history entries, but no others.
        assert moves, document
        assert moves == ended["moves"][-len(moves) :], (ended, moves)
        assert refused >= ended["refused"], (ended, refused)
        ended["refused"] = refused
        assert {**document, "moves": ended["moves"], "refused": refused} == ended


def check_refusals(jobs: Iterable[Job], store: Store) -> None:
    """Check that refused writes are counted on the job and in total, and are in the history."""
    refused = 0
    for job in jobs:
        told = [entry for entry in job.history if entry["verb"] == Verb.REFUSE]
        assert len(told) <= job.refused_writes, job
        assert told or not job.refused_writes or len(job.history) == HISTORY_KEPT, job
        refused += job.refused_writes
    assert sum(store.counters.read().get(Counter.REFUSED_WRITES, {}).values()) == refused


def _check_history(job: Job) -> None:
    """Check that each entry leads to the next, and that nothing starts after a cancel."""
    assert job.history[0]["verb"] == "submit" or len(job.history) == HISTORY_KEPT
    assert job.history[-1]["to"] == job.status, job
    cancelled = False
    for entry, following in zip(job.history, job.history[1:], strict=False):
        assert following["from"] == entry["to"], job
        if following["verb"] == Verb.REFUSE:
            assert following["to"] == entry["to"], job
        else:
            assert entry["to"] not in TERMINAL, job
        cancelled = cancelled or entry["verb"] == "cancel"
        assert not (cancelled and following["verb"] in ("assign", "start", "claim")), job
