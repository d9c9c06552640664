"""What happened in one span of time: counts, durations, and what was seen of queue and workers."""

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
    """One span from ``at`` on. Jobs count where they ended, submissions where they were made."""

    at: datetime
    submitted: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    #: From the queue to the start, and from the start to the end, of the attempt that ended it.
    wait: Histogram = field(default_factory=dict)
    run: Histogram = field(default_factory=dict)
    #: How often queue and workers were looked at, and the sums of what was seen.
    samples: int = 0
    held: int = 0
    used_cpu: float = 0
    total_cpu: float = 0
    #: The most that was seen.
    queued: int = 0
    oldest_wait_ms: int = 0

    @property
    def ended(self) -> int:
        """Jobs that ended, in whatever state."""
        return self.completed + self.failed + self.cancelled

    @property
    def utilisation(self) -> float | None:
        """The part of the CPUs on offer that was in use; None while there were none."""
        return self.used_cpu / self.total_cpu if self.total_cpu else None


def floor(at: datetime, step: timedelta) -> datetime:
    """The beginning of the span that ``at`` is in."""
    return at - (at - _EPOCH) % step


def merge(at: datetime, parts: Iterable[Rollup]) -> Rollup:
    """One span of several."""
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
    """Equal spans from ``begin`` to ``end``; one of which nothing is known is empty."""
    spans: dict[datetime, list[Rollup]] = {}
    for rollup in rollups:
        spans.setdefault(floor(rollup.at, step), []).append(rollup)
    first = floor(begin, step)
    steps = -((first - end) // step)
    return [merge(at, spans.get(at, ())) for n in range(steps) for at in [first + n * step]]
