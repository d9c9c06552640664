"""Alarms: what is wrong with the platform now, in words for an operator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from taskyard.jobs.model import Job
from taskyard.jobs.search_terms import quoted
from taskyard.workers.model import Worker
from taskyard.workers.places import could_never

#: There is an alarm when the oldest queued job waits longer than this.
LONG_WAIT = timedelta(hours=1)

#: After so many intervals without a tick or a sign of life, beat or the scheduler counts as down.
SILENT_INTERVALS = 3


class AlarmKind(StrEnum):
    """The kinds of alarms."""

    NO_WORKER = "no_worker"
    NO_LABEL = "no_label"
    TOO_LARGE = "too_large"
    SCHEDULER_SILENT = "scheduler_silent"
    TICK_SILENT = "tick_silent"
    LONG_QUEUE = "long_queue"


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something that is wrong, and a search for jobs that wait because of it, if any do."""

    kind: AlarmKind
    message: str
    search: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The state of the platform from which alarms are derived."""

    now: datetime
    workers: Sequence[Worker]
    offline_after: timedelta
    #: One queued job for each distinct requirement.
    waiting: Sequence[Job]
    oldest_queued_at: datetime | None
    scheduler_seen_at: datetime | None
    ticks: Mapping[str, datetime]
    #: How often a scheduler shows life, and how often each tick is due.
    life_seconds: float
    tick_seconds: Mapping[str, float]


def judge(facts: Facts) -> list[Alarm]:
    """Return all alarms: those of the scheduler first, then of workers, then of the queue."""
    return [*_scheduler(facts), *_workers(facts), *_queue(facts)]


def _scheduler(facts: Facts) -> Iterator[Alarm]:
    seen = facts.scheduler_seen_at
    if is_silent(seen, facts.now, facts.life_seconds):
        words = f"no scheduler is alive (last seen {_ago(seen, facts.now)}): nothing expires"
        yield Alarm(kind=AlarmKind.SCHEDULER_SILENT, message=words)
        return
    silent = [
        f"{name} ({_ago(facts.ticks.get(name), facts.now)})"
        for name, seconds in facts.tick_seconds.items()
        if is_silent(facts.ticks.get(name), facts.now, seconds)
    ]
    if silent:
        words = f"ticks do not come: {', '.join(silent)}; is beat running?"
        yield Alarm(kind=AlarmKind.TICK_SILENT, message=words)


def _workers(facts: Facts) -> Iterator[Alarm]:
    online = [w for w in facts.workers if not w.is_offline(facts.now, facts.offline_after)]
    if not online:
        search = "status:queued" if facts.waiting else None
        yield Alarm(kind=AlarmKind.NO_WORKER, message="no worker is online", search=search)
        return
    missing = set()
    for job in facts.waiting:
        labels = ",".join(sorted(job.labels))
        labelled = [w for w in online if set(job.labels) <= set(w.labels)]
        if not labelled and labels not in missing:
            missing.add(labels)
            words = f"jobs wait for label {labels.replace(',', ', ')}, which no worker online has"
            terms = " ".join(f"label:{quoted(label)}" for label in sorted(job.labels))
            search = f"status:queued {terms}"
            yield Alarm(kind=AlarmKind.NO_LABEL, message=words, search=search)
        elif labelled and all(could_never(w, job.requirement) for w in labelled):
            asked = f"{job.required_cpu:g} CPUs and {job.required_ram_mb} MB"
            words = f"jobs wait for {asked}, more than any worker for them has"
            search = f"id:{job.job_id}"
            yield Alarm(kind=AlarmKind.TOO_LARGE, message=words, search=search)


def _queue(facts: Facts) -> Iterator[Alarm]:
    oldest = facts.oldest_queued_at
    if oldest is not None and facts.now - oldest > LONG_WAIT:
        words = f"jobs wait for more than an hour, the oldest since {_ago(oldest, facts.now)}"
        yield Alarm(kind=AlarmKind.LONG_QUEUE, message=words, search="status:queued wait>1h")


def is_silent(at: datetime | None, now: datetime, interval_seconds: float) -> bool:
    """Return whether ``at``, the last sign of life, is more than ``SILENT_INTERVALS`` ago."""
    return at is None or (now - at).total_seconds() > SILENT_INTERVALS * interval_seconds


def _ago(at: datetime | None, now: datetime) -> str:
    if at is None:
        return "never"
    seconds = (now - at).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
