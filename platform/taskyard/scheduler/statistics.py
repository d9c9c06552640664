"""The statistics tick: counts the last minutes anew, and samples the queue and the workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskyard.settings import Settings
from taskyard.stats.rollup import HOUR, MINUTE, TEN_MINUTES, floor, merge
from taskyard.store.client import Store

#: A minute is counted anew until it is so old, or longer where the results of jobs may take longer
#: to deliver: an end is written later than the instant that it carries.
SETTLED_AFTER = timedelta(minutes=2)

#: The longest span that one tick counts, and how far back ticks catch up after an outage.
AT_ONCE = timedelta(hours=2)
CAUGHT_UP = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class StatisticsReport:
    """What one statistics tick counted."""

    minutes: int
    queued: int


def tick(store: Store, settings: Settings) -> StatisticsReport:
    """Count the jobs that ended since the last tick, and note the state of queue and workers."""
    now = store.clock.now()
    queued = _look(store, settings, now)
    counted = 0
    for begin, end in _parts(*_due(store, settings, now)):
        minutes = store.stats.count(begin, end)
        store.stats.save(MINUTE, minutes)
        _merge(store, begin, parts=MINUTE, whole=TEN_MINUTES)
        _merge(store, begin, parts=TEN_MINUTES, whole=HOUR)
        counted += len(minutes)
    return StatisticsReport(minutes=counted, queued=queued)


def _parts(begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Split a span at every ten minutes, so that each part is counted and merged before the next.

    A tick that is killed then leaves nothing unmerged but what the next tick counts again.
    """
    while begin < end:
        ends = min(end, floor(begin, TEN_MINUTES) + TEN_MINUTES)
        yield begin, ends
        begin = ends


def _due(store: Store, settings: Settings, now: datetime) -> tuple[datetime, datetime]:
    delivered = timedelta(seconds=settings.finish_grace_seconds) + MINUTE
    settled = min(max(SETTLED_AFTER, delivered), AT_ONCE / 2)
    earliest = floor(now - CAUGHT_UP, TEN_MINUTES)
    end = floor(now, MINUTE) + MINUTE
    until = store.stats.counted_until(not_before=earliest, now=end) or now
    begin = max(earliest, floor(until - settled, MINUTE))
    return begin, min(end, begin + AT_ONCE)


def _merge(store: Store, at: datetime, *, parts: timedelta, whole: timedelta) -> None:
    """Merge parts into a whole, so that a chart of a long time reads few documents.

    A week is read as hours; in parts of ten minutes it took half a second.
    """
    begin = floor(at, whole)
    found = store.stats.read(parts, begin, begin + whole)
    store.stats.save(whole, [merge(begin, found)])


def _look(store: Store, settings: Settings, now: datetime) -> int:
    online = {
        worker.worker_id: worker
        for worker in store.workers.listed()
        if not worker.is_offline(now, settings.offline_after)
    }
    usage = store.live.usage()
    queued, oldest = store.live.counts()["QUEUED"], store.live.oldest_queued()
    store.stats.sample(
        floor(now, MINUTE),
        sums={
            "held": sum(used.jobs for used in usage.values()),
            "usedCpu": sum(u.of(online[name]).cpu for name, u in usage.items() if name in online),
            "totalCpu": sum(worker.cpu_count for worker in online.values()),
        },
        most={
            "queued": queued,
            "oldestWaitMs": round((now - oldest) / timedelta(milliseconds=1)) if oldest else 0,
        },
    )
    return queued
