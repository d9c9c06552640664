"""The scheduler's ticks by name, as beat sends them."""

from __future__ import annotations

from taskyard.context import Platform
from taskyard.scheduler import health, retention, statistics, timeouts


def run(platform: Platform, name: str) -> None:
    """Run one tick. Two at once, or one too many, change nothing."""
    match name:
        case "timeouts":
            _expire(platform)
        case "assignment":
            platform.store.locks.note_tick("assignment", now=platform.store.clock.now())
            platform.run_pass("tick")
        case "health":
            health.tick(platform.store, platform.settings)
        case "retention":
            retention.tick(platform.store, platform.settings)
        case "statistics":
            statistics.tick(platform.store, platform.settings)
        case _:
            raise ValueError(f"There is no tick {name!r}")


def _expire(platform: Platform) -> None:
    """What the sweep put back into the queue is placed at once."""
    if timeouts.tick(platform.store, platform.settings).requeued:
        platform.nudge("expired")
