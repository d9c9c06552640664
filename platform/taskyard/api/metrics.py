"""``/metrics`` for Prometheus, read from MongoDB, so that every web process shows the same.

Nothing is kept in this process. Labels have fixed sets of values: none is a job or a worker.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flask import Blueprint, Response
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from taskyard import __version__
from taskyard.api import representations
from taskyard.api.base import platform
from taskyard.context import Platform
from taskyard.jobs.counters import Counter
from taskyard.jobs.refusal import Write
from taskyard.workers.model import WorkerStatus

blueprint = Blueprint("metrics", __name__)


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """How a counter is shown; with a label, there is a sample for each of its values."""

    name: str
    help: str
    label: str = ""
    values: Iterable[str] = ()


_COUNTERS: Mapping[Counter, _Shown] = {
    Counter.ATTEMPTS_LOST: _Shown(
        name="attempts_lost", help="Running attempts whose worker was lost."
    ),
    Counter.JOBS_RECOVERED: _Shown(
        name="jobs_recovered", help="Lost jobs that were started again."
    ),
    Counter.POISON_JOBS: _Shown(
        name="poison_jobs", help="Jobs that lost their worker three times in a row."
    ),
    Counter.REQUEUES: _Shown(
        name="requeues",
        help="Jobs that went back to the queue.",
        label="verb",
        values=("expire", "fail", "time_out", "release"),
    ),
    Counter.ASSIGNMENTS: _Shown(
        name="assignments",
        help="Jobs that were handed to an agent.",
        label="kind",
        values=("celery", "http"),
    ),
    Counter.REFUSED_WRITES: _Shown(
        name="refused_writes",
        help="Late writes of attempts that were over.",
        label="write",
        values=tuple(Write),
    ),
    Counter.SWEEPS_HELD_BACK: _Shown(
        name="sweeps_held_back", help="Expiry sweeps that waited for an outage's lease to pass."
    ),
}


@blueprint.get("/metrics")
def show() -> Response:
    """Return the counters and the current state as metrics."""
    metrics = generate_latest(PlatformCollector(platform()))
    return Response(metrics, content_type=CONTENT_TYPE_LATEST)


class PlatformCollector(Collector):
    """Reads all metrics from MongoDB on each scrape."""

    def __init__(self, here: Platform) -> None:
        self._platform = here

    def collect(self) -> Iterator[Metric]:
        """All metrics."""
        yield InfoMetricFamily("taskyard_build", "The web's version.", {"version": __version__})
        yield from _counted(self._platform.store.counters.read())
        yield from _queue(self._platform)
        yield _workers()
        yield from _ages(self._platform)


def _counted(counts: Mapping[str, Any]) -> Iterator[Metric]:
    for counter, shown in _COUNTERS.items():
        labels = [shown.label] if shown.label else []
        family = CounterMetricFamily(f"taskyard_{shown.name}", shown.help, labels=labels)
        found = counts.get(counter, {} if labels else 0)
        for value in shown.values:
            family.add_metric([value], found.get(value, 0))
        if not labels:
            family.add_metric([], found)
        yield family
    yield SummaryMetricFamily(
        "taskyard_pass_duration_seconds",
        "Scheduler passes that found jobs waiting.",
        count_value=counts.get(Counter.PASSES, 0),
        sum_value=counts.get(Counter.PASSES_SECONDS, 0),
    )


def _queue(here: Platform) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("taskyard_jobs", "Live jobs.", labels=["status"])
    for status, count in here.store.live.counts().items():
        jobs.add_metric([status], count)
    yield jobs
    oldest, now = here.store.live.oldest_queued(), here.store.clock.now()
    age = _seconds(oldest, now) if oldest else 0
    yield GaugeMetricFamily(
        "taskyard_oldest_queued_seconds", "How long the longest waiting job is queued.", age
    )


def _workers() -> Metric:
    workers = GaugeMetricFamily("taskyard_workers", "Workers.", labels=["status"])
    counts = Tally(worker["status"] for worker in representations.workers())
    for status in WorkerStatus:
        workers.add_metric([status], counts[status])
    return workers


def _ages(here: Platform) -> Iterator[Metric]:
    """Yield the ages of ticks and scheduler; a tick that never ran has none."""
    locks, now = here.store.locks, here.store.clock.now()
    ticks = GaugeMetricFamily("taskyard_tick_age_seconds", "Since a tick ran.", labels=["tick"])
    for name, at in locks.ticks().items():
        ticks.add_metric([name], _seconds(at, now))
    yield ticks
    seen = locks.scheduler_seen_at()
    yield GaugeMetricFamily(
        "taskyard_scheduler_age_seconds",
        "Since a scheduler was heard of.",
        _seconds(seen, now) if seen else None,
    )


def _seconds(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
