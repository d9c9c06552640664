"""Celery beat's scheduler with its table in memory, which sleeps until a tick is due."""

from __future__ import annotations

from celery.beat import Scheduler as _Scheduler


class Scheduler(_Scheduler):  # type: ignore[misc] # Celery publishes no types
    """Celery's own wakes 10 ms early and then asks without a pause until the time has come,
    which was two thirds of what an idle beat used (``docs/decisions/0013-idle.md``). Its subclass
    with a shelve file would keep a local state file; beat's table is the configuration.
    """

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """How long to sleep, in seconds, when something is due in ``n``."""
        return n + drift
