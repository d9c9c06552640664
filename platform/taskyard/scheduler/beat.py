"""A scheduler for Celery beat that keeps its table in memory and sleeps until a tick is due."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic
from typing import Any

from celery import schedules
from celery.beat import Scheduler as _Scheduler

#: A wall clock that lost less than this between two looks was not set back, or by too little.
_SLACK_SECONDS = 0.1


class Scheduler(_Scheduler):  # type: ignore[misc] # Celery publishes no types
    """A beat scheduler that uses little CPU when idle, has no file, and survives a clock set back.

    Celery's own scheduler wakes 10 ms early and then asks without a pause until the time has come,
    which was two thirds of what an idle beat used (``docs/decisions/0013-idle.md``). Its subclass
    with a shelve would keep a local state file, though beat's table is just the configuration.

    Celery goes by the wall clock: when that is set back, nothing would be due until the clock has
    caught up. So the table is set back with it.
    """

    #: The wall clock and the monotonic clock at the last look.
    _seen: tuple[Any, float] | None = None

    def adjust(self, n: float, drift: float = 0.0) -> float:
        """Return how long to sleep, in seconds, when something is due in ``n``: not 10 ms less."""
        return n + drift

    def tick(self, *args: Any, **named: Any) -> float:
        """Send what is due; return how long to sleep, at most the shortest interval."""
        self._follow_clock()
        delay = super().tick(*args, **named)
        rhythms = [entry.schedule for entry in self.schedule.values()]
        intervals = [one.seconds for one in rhythms if isinstance(one, schedules.schedule)]
        return float(min([delay, *intervals]))

    def _follow_clock(self) -> None:
        """Move the table back by as much as the wall clock was set back since the last look."""
        before, self._seen = self._seen, (self.app.now(), monotonic())
        if before is None:
            return
        wall, passed = self._seen[0] - before[0], self._seen[1] - before[1]
        set_by = wall.total_seconds() - passed
        if set_by < -_SLACK_SECONDS:
            for entry in self.schedule.values():
                entry.last_run_at += timedelta(seconds=set_by)
            # Celery fills the heap anew, with what is due by the clock as it is now.
            self._heap = None
