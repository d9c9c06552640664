"""Rollups: counts and durations of jobs in a span of time, and samples of queue and workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from taskyard.stats import histogram
from taskyard.stats.histogram import Histogram

MINUTE = timedelta(minutes=1)
TEN_MINUTES = timedelta(minutes=10)
HOUR = timedelta(hours=1)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Rollup:
    """The span that begins at ``at``: the jobs submitted in it, and those that ended in it."""

    at: datetime
    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    #: Times in the queue, and times from start to end, of the attempts with which jobs ended.
    wait: Histogram = field(default_factory=dict)
    run: Histogram = field(default_factory=dict)
    #: How often queue and workers were sampled, and the sums of the samples.
    samples: int = 0
    held: int = 0
    used_cpu: float = 0
    total_cpu: float = 0
    #: The maxima of the samples.
    queued: int = 0
    oldest_wait_ms: int = 0

    @property
    def ended(self) -> int:
        """The number of jobs that ended, in any state."""
        return self.completed + self.failed + self.cancelled

    @property
    def utilisation(self) -> float | None:
        """The share of the workers' CPUs that was in use; None if there were no CPUs."""
        return self.used_cpu / self.total_cpu if self.total_cpu else None


def floor(at: datetime, step: timedelta) -> datetime:
    """Return the beginning of the step that ``at`` is in."""
    return at - (at - _EPOCH) % step


def merge(at: datetime, parts: Iterable[Rollup]) -> Rollup:
    """Return one rollup of several, which begins at ``at``."""
    rollups = list(parts)
    return Rollup(
        at=at,
        submitted=sum(r.submitted for r in rollups),
        completed=sum(r.completed for r in rollups),
        failed=sum(r.failed for r in rollups),
        cancelled=sum(r.cancelled for r in rollups),
        wait=histogram.merged(r.wait for r in rollups),
        run=histogram.merged(r.run for r in rollups),
        samples=sum(r.samples for r in rollups),
        held=sum(r.held for r in rollups),
        used_cpu=sum(r.used_cpu for r in rollups),
        total_cpu=sum(r.total_cpu for r in rollups),
        queued=max((r.queued for r in rollups), default=0),
        oldest_wait_ms=max((r.oldest_wait_ms for r in rollups), default=0),
    )


def series(
    rollups: Sequence[Rollup], *, begin: datetime, end: datetime, step: timedelta
) -> list[Rollup]:
    """Return a rollup for each step from ``begin`` to ``end``; empty where there are no data."""
    spans: dict[datetime, list[Rollup]] = {}
    for rollup in rollups:
        spans.setdefault(floor(rollup.at, step), []).append(rollup)
    first = floor(begin, step)
    steps = -((first - end) // step)
    return [merge(at, spans.get(at, ())) for n in range(steps) for at in [first + n * step]]
