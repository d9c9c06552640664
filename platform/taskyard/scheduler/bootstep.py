"""A scheduler's sign of life, as part of its Celery worker.

The ticks alone would not do: if none come, either beat sends none or every scheduler is down, and
an operator wants to know which.
"""

from __future__ import annotations

import threading
from typing import Any

from celery import bootsteps

from taskyard import events, settings
from taskyard.celery_names import SCHEDULER_QUEUE
from taskyard.errors import TaskyardError
from taskyard.store.failures import is_unavailable


class SchedulerStep(bootsteps.StartStopStep):  # type: ignore[misc] # Celery publishes no types
    """Has every scheduler note that it is alive, as often as the health tick is due."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._stopped = threading.Event()

    def include_if(self, worker: Any) -> bool:
        """Whether this worker is a scheduler."""
        return SCHEDULER_QUEUE in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Give the first sign of life before any tick runs, and go on on a thread of its own."""
        _show_life(worker)
        threading.Thread(target=self._run, args=[worker], name="life", daemon=True).start()

    def stop(self, _worker: Any) -> None:
        """Give no more signs of life."""
        self._stopped.set()

    terminate = stop

    def _run(self, worker: Any) -> None:
        interval = settings.load().health_tick_seconds
        while not self._stopped.wait(interval):
            _show_life(worker)


def _show_life(worker: Any) -> None:
    try:
        store = worker.app.platform().store
        store.locks.note_scheduler(now=store.clock.now())
    except Exception as error:
        if not (isinstance(error, TaskyardError) or is_unavailable(error)):
            raise
        events.warn("scheduler.store_unavailable", error=type(error).__name__)
