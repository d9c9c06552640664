"""How the platform is doing: over a span of time, from the stored statistics, and now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskyard.context import Platform
from taskyard.jobs.search import in_states
from taskyard.jobs.states import JobStatus
from taskyard.stats import alarms, common_errors
from taskyard.stats.alarms import Alarm, Facts
from taskyard.stats.common_errors import CommonError
from taskyard.stats.rollup import HOUR, MINUTE, TEN_MINUTES, Rollup, floor, merge, series
from taskyard.store.queries import Tally
from taskyard.store.stats import ERRORS_LOOKED_AT
from taskyard.workers.model import NOTHING, Usage, Worker

#: How many errors are shown.
ERRORS = 10

#: How many shapes of queued jobs are checked for one that no worker meets.
SHAPES = 100


@dataclass(frozen=True, kw_only=True)
class Span:
    """A span of time, the stored steps that it is read from, and the steps that it is shown in."""

    length: timedelta
    stored: timedelta
    shown: timedelta


SPANS: Mapping[str, Span] = {
    "15m": Span(length=timedelta(minutes=15), stored=MINUTE, shown=MINUTE),
    "1h": Span(length=timedelta(hours=1), stored=MINUTE, shown=MINUTE),
    "6h": Span(length=timedelta(hours=6), stored=TEN_MINUTES, shown=TEN_MINUTES),
    "24h": Span(length=timedelta(hours=24), stored=TEN_MINUTES, shown=timedelta(minutes=20)),
    "7d": Span(length=timedelta(days=7), stored=HOUR, shown=timedelta(hours=2)),
}


@dataclass(frozen=True, kw_only=True)
class Overview:
    """All figures of the overview."""

    at: datetime
    span: Span
    #: Equal steps, the oldest first; the last is not over yet.
    points: Sequence[Rollup]
    total: Rollup
    #: Jobs by state now.
    jobs: Tally
    #: Workers by status now.
    workers: Mapping[str, int]
    used_cpu: float
    total_cpu: float
    #: When the job that waits longest was queued; of a very long queue, as last sampled.
    oldest_queued_at: datetime | None
    errors: Sequence[CommonError]
    #: How many failed jobs were searched for errors, at most.
    errors_looked_at: int
    alarms: Sequence[Alarm]

    @property
    def throughput_per_second(self) -> float:
        """Jobs that ended, over the whole span, which begins with its first step."""
        return self.total.ended / (self.at - self.points[0].at).total_seconds()

    @property
    def failure_rate(self) -> float | None:
        """The share of failed jobs among those that completed or failed; None if there are none."""
        by_itself = self.total.completed + self.total.failed
        return self.total.failed / by_itself if by_itself else None


def overview(
    platform: Platform, span: Span, *, counted: Collection[JobStatus] = tuple(JobStatus)
) -> Overview:
    """The figures; each read is bounded, however many jobs are stored.

    Jobs are counted in the ``counted`` states and in QUEUED only: counting states with many jobs
    takes most of the time.
    """
    store, now = platform.store, platform.store.clock.now()
    begin = now - span.length
    kept = store.stats.read(span.stored, floor(begin, span.shown), now)
    points = series(kept, begin=begin, end=now, step=span.shown)
    jobs = store.queries.tally(in_states({*counted, JobStatus.QUEUED}))
    oldest = _oldest(platform, jobs, now)
    workers, usage = store.workers.listed(), store.live.usage()
    offline_after = platform.settings.offline_after
    online = [worker for worker in workers if not worker.is_offline(now, offline_after)]
    return Overview(
        at=now,
        span=span,
        points=points,
        total=merge(points[0].at, points),
        jobs=jobs,
        workers=_statuses(workers, usage, now, offline_after),
        used_cpu=sum(usage.get(worker.worker_id, NOTHING).of(worker).cpu for worker in online),
        total_cpu=sum(worker.cpu_count for worker in online),
        oldest_queued_at=oldest,
        errors=common_errors.group(store.stats.errors(begin), limit=ERRORS),
        errors_looked_at=ERRORS_LOOKED_AT,
        alarms=alarms.judge(_facts(platform, workers, oldest, now)),
    )


def _oldest(platform: Platform, jobs: Tally, now: datetime) -> datetime | None:
    """When the job that waits longest was queued: looked up while the queue is short; for a long
    queue, from the last sample of the statistics tick.
    """
    if JobStatus.QUEUED not in jobs.more:
        return platform.store.live.oldest_queued() if jobs.counts["QUEUED"] else None
    # By minutes, whatever steps are shown: the longest wait of a whole hour may be over by now.
    kept = platform.store.stats.read(MINUTE, floor(now - 5 * MINUTE, MINUTE), now)
    sampled = [rollup for rollup in kept if rollup.samples]
    if not sampled:
        return None
    return now - timedelta(milliseconds=sampled[-1].oldest_wait_ms)


def _statuses(
    workers: Sequence[Worker],
    usage: Mapping[str, Usage],
    now: datetime,
    offline_after: timedelta,
) -> Mapping[str, int]:
    return Counter(
        str(worker.status(usage.get(worker.worker_id, NOTHING), now, offline_after))
        for worker in workers
    )


def _facts(
    platform: Platform, workers: Sequence[Worker], oldest: datetime | None, now: datetime
) -> Facts:
    store, settings = platform.store, platform.settings
    return Facts(
        now=now,
        workers=workers,
        offline_after=settings.offline_after,
        waiting=store.live.queue(per_shape=1, shapes=SHAPES),
        oldest_queued_at=oldest,
        scheduler_seen_at=store.locks.scheduler_seen_at(),
        ticks=store.locks.ticks(),
        life_seconds=settings.health_tick_seconds,
        tick_seconds={
            name: getattr(settings, f"{name}_tick_seconds")
            for name in ("timeouts", "health", "assignment", "statistics")
        },
    )
