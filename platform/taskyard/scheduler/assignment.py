"""A pass: read the live jobs and workers, place jobs (pure), write the assignments in one batch."""

from __future__ import annotations

import secrets
import time
from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from taskyard import events, ids
from taskyard.jobs import lifecycle
from taskyard.jobs.counters import Counter
from taskyard.jobs.model import Job
from taskyard.jobs.transition import Moment, Transition
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.store.live import queue_order
from taskyard.workers import placement, places
from taskyard.workers.model import Requirement
from taskyard.workers.places import Place

#: A pass that takes longer than this is taken for dead: another may begin.
LOCK_HOLD = timedelta(seconds=10)

#: Most jobs of one shape that one pass places. The rest waits for the next pass, which the freed
#: places bring about anyway.
PER_SHAPE = 2_000

#: Jobs of one shape that are read beyond those that there is room for: some of the first may be
#: refused a place that others get (suspects, and jobs that a worker lost before).
SPARE = 100


@dataclass(frozen=True, kw_only=True)
class PassReport:
    """What one pass did."""

    trigger: str
    #: False when another pass was running, which was then asked to go once more.
    ran: bool = True
    queued: int = 0
    assigned: Sequence[Transition] = field(default_factory=list)
    lost: int = 0
    duration_ms: float = 0
    #: Whether the pass was asked to go once more, and has left that to another.
    asked_again: bool = False


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a pass has decided and not written yet."""

    queued: int = 0
    transitions: Sequence[Transition] = ()
    reservations: Mapping[str, str] = field(default_factory=dict)
    reserved_before: Mapping[str, str | None] = field(default_factory=dict)


def tick(store: Store, settings: Settings, *, trigger: str = "tick") -> PassReport:
    """Run a pass if none is running, else ask the running one to go once more.

    A tick's own pass leaves that to another pass: where passes take long, each is asked to go once
    more, and the sweep, which waits for the tick, would come so late that it holds itself back.
    """
    owner = secrets.token_hex(6)
    if not store.locks.acquire(owner, now=store.clock.now(), hold=LOCK_HOLD):
        return PassReport(trigger=trigger, ran=False)
    began = time.monotonic()
    assigned: list[Transition] = []
    queued = lost = 0
    asked_again = False
    try:
        while True:
            decision = decide(store, settings, reserving=trigger == "tick")
            won = write(store, decision)
            assigned += won
            queued, lost = decision.queued, lost + len(decision.transitions) - len(won)
            if store.locks.release(owner):
                break
            if asked_again := trigger == "tick":
                store.locks.give_up(owner)
                break
            store.locks.clear_flag(owner)
    except Exception:
        # Otherwise nobody could run a pass until the lock has run out.
        with suppress(Exception):
            store.locks.give_up(owner)
        raise
    report = PassReport(
        trigger=trigger,
        queued=queued,
        assigned=assigned,
        lost=lost,
        duration_ms=round((time.monotonic() - began) * 1000, 1),
        asked_again=asked_again,
    )
    _record(store, report)
    return report


def decide(store: Store, settings: Settings, *, reserving: bool = True) -> Decision:
    """Read the live jobs and workers once, and decide what to assign and to reserve.

    While no place is free, the only decision left is which places to reserve (``reserving``). Once
    a tick is often enough for that, so the queue is not read for it whenever a pass is asked for.
    """
    workers = [w for w in store.workers.listed() if w.kind == "celery"]
    now = store.clock.now()
    usage = store.live.usage() if workers else {}
    available = places.places(workers, usage, now, settings.offline_after)
    if not reserving and all(spot.is_full for spot in available):
        return Decision()
    kept = store.live.queued_among([w.reserved_for for w in workers if w.reserved_for])
    queue = _queue(store, available, kept, reserving=reserving)
    if not queue and not any(worker.reserved_for for worker in workers):
        return Decision()
    plan = placement.place(
        queue,
        available,
        now=now,
        reserve_after=timedelta(seconds=settings.reserve_after_seconds),
        still_queued={job.job_id for job in kept},
    )
    start_by = now + timedelta(seconds=settings.start_deadline_seconds)
    # One lease id for all jobs that a worker is given: equal writes become one statement.
    leases: defaultdict[str, str] = defaultdict(ids.lease)
    at = Moment(now=now)
    transitions = [
        lifecycle.assign(
            job, worker_id=worker_id, lease_id=leases[worker_id], at=at, start_by=start_by
        )
        for job, worker_id in plan.placements
    ]
    return Decision(
        queued=len(queue),
        transitions=transitions,
        reservations=plan.reservations,
        reserved_before={w.worker_id: w.reserved_for for w in workers},
    )


def _queue(
    store: Store, available: Sequence[Place], kept: Sequence[Job], *, reserving: bool
) -> list[Job]:
    """Return the queued jobs that may get a place now, in order.

    These are the jobs with a reservation, and of each shape as many as there is room for. Of a
    shape without room it is only the first job, so that this can reserve a place.
    """
    kept_ids = {job.job_id for job in kept}
    open_to_all = [spot for spot in available if spot.worker.reserved_for not in kept_ids]
    limits: dict[str, int] = {}
    for shape in store.live.waiting_shapes() if available else ():
        needed = Requirement.of_shape(shape)
        if room := places.room_on(open_to_all, needed, at_most=PER_SHAPE):
            limits[shape] = room + SPARE
        elif reserving and any(not places.could_never(spot.worker, needed) for spot in available):
            limits[shape] = 1
    heads = [job for job in store.live.heads(limits) if job.job_id not in kept_ids]
    return sorted([*kept, *heads], key=queue_order)


def write(store: Store, decision: Decision) -> list[Transition]:
    """Write a decision in one batch, however old it is by now; return the assignments won."""
    won = store.jobs.apply_all(decision.transitions)
    store.workers.reserve(decision.reservations, decision.reserved_before)
    return won


def _record(store: Store, report: PassReport) -> None:
    """Log, count and note a pass that had something to do: two writes in all."""
    if not report.queued and not report.assigned:
        return
    counts: dict[str, float] = {
        Counter.PASSES: 1,
        Counter.PASSES_SECONDS: report.duration_ms / 1000,
    }
    if report.assigned:
        counts[Counter.ASSIGNMENTS.of("celery")] = len(report.assigned)
    store.counters.add(counts)
    store.passes.note(
        at=store.clock.now(),
        trigger=report.trigger,
        queued=report.queued,
        assigned=Counts(str(t.changes["assignedAgentId"]) for t in report.assigned),
        lost=report.lost,
        ms=report.duration_ms,
    )
    events.emit(
        "scheduler.pass",
        trigger=report.trigger,
        queued=report.queued,
        assigned=len(report.assigned),
        lost=report.lost,
        ms=report.duration_ms,
    )
