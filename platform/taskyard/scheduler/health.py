"""The health tick: which workers went offline, and whose cooldown is over."""

from __future__ import annotations

from dataclasses import dataclass

from taskyard import events
from taskyard.settings import Settings
from taskyard.store.client import Store


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """What one health tick found."""

    offline: int
    cooled_down: int


def tick(store: Store, settings: Settings) -> HealthReport:
    """Mark silent workers as offline, and end the cooldowns that are over.

    The jobs of an offline worker are left to the expiry sweep, which takes them when their leases
    end and not before.
    """
    now = store.clock.now()
    gone = store.workers.mark_offline(silent_since=now - settings.offline_after, now=now)
    for worker_id in gone:
        events.warn("worker.offline", worker=worker_id)
    return HealthReport(offline=len(gone), cooled_down=store.workers.end_cooldowns(now=now))
