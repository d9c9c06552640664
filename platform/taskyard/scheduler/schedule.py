"""Beat's table: how often it sends which ticks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from taskyard.celery_names import SCHEDULER_QUEUE
from taskyard.settings import Settings

TICKS = ("timeouts", "health", "assignment", "retention", "statistics")

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def beat_schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    """Celery's setting of that name: one message for all ticks of one interval, since a message
    costs an idle platform more than a tick does.
    """
    by_interval: dict[float, list[str]] = {}
    for name in TICKS:
        by_interval.setdefault(getattr(settings, f"{name}_tick_seconds"), []).append(name)
    return {" ".join(names): _every(seconds, names) for seconds, names in by_interval.items()}


def _every(seconds: float, names: list[str]) -> dict[str, Any]:
    """A message that expires after its interval, so that ticks never pile up.

    The broker lets it expire, by the server's clock; Celery's own ``expires`` would compare the
    clocks of two hosts. It is due when beat starts: what was stored while nothing ran does not
    wait for it.
    """
    return {
        "task": "taskyard.tick",
        "args": names,
        "schedule": seconds,
        "last_run_at": _LONG_AGO,
        "options": {"queue": SCHEDULER_QUEUE, "expiration": seconds},
    }
