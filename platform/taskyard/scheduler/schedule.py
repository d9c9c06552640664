"""Beat's table: which ticks it sends, and how often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from taskyard.celery_names import SCHEDULER_QUEUE
from taskyard.settings import Settings

TICKS = ("timeouts", "health", "assignment", "retention", "statistics")

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return Celery's ``beat_schedule``: one message for all ticks of the same interval.

    A message costs an idle platform more than a tick does.
    """
    by_interval: dict[float, list[str]] = {}
    for name in TICKS:
        by_interval.setdefault(getattr(settings, f"{name}_tick_seconds"), []).append(name)
    return {" ".join(names): _every(seconds, names) for seconds, names in by_interval.items()}


def _every(seconds: float, names: list[str]) -> dict[str, Any]:
    """Return an entry for a message that expires after its interval, so that ticks never pile up.

    The broker expires it, by the server's clock; Celery's own ``expires`` would compare the clocks
    of two hosts. It is due as soon as beat starts, so that jobs that were stored while nothing ran
    do not wait an interval.
    """
    return {
        "task": "taskyard.tick",
        "args": names,
        "schedule": seconds,
        "last_run_at": _LONG_AGO,
        "options": {"queue": SCHEDULER_QUEUE, "expiration": seconds},
    }
