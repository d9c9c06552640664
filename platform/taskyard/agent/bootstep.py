"""The agent as part of a Celery worker: started before that consumes, drained before it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from celery import bootsteps, signals
from celery.worker import state

from taskyard import events
from taskyard.agent.agent import Agent
from taskyard.celery_names import SCHEDULER_QUEUE, queue_of
from taskyard.context import Platform
from taskyard.errors import TaskyardError
from taskyard.store.failures import is_unavailable

T = TypeVar("T")

_RETRY_SECONDS = 1.0


class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc] # Celery publishes no types
    """Makes every Celery worker that is not a scheduler an agent with a queue of its own."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.agent: Agent | None = None
        self._draining: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:
        """Whether this worker is an agent."""
        return SCHEDULER_QUEUE not in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Have the worker consume the agent's queue, and start the agent."""
        platform: Platform = _answered(worker.app.platform)
        name = platform.settings.worker_id or worker.hostname
        self.agent = _answered(lambda: Agent(platform, name))
        worker.app.agent = self.agent
        worker.app.amqp.queues.select_add(queue_of(self.agent.worker_id))
        _answered(self.agent.start)
        signals.worker_shutting_down.connect(self._begin_drain)

    def stop(self, _worker: Any) -> None:
        """Take no more jobs, let running ones end within the grace, then leave."""
        self._begin_drain()
        if self._draining:
            self._draining.join()
        elif self.agent:
            self.agent.drain()

    def terminate(self, _worker: Any) -> None:
        """Leave at once: running jobs are stopped, and tried again if they have retries left."""
        if self.agent:
            self.agent.drain(grace_seconds=0)

    def _begin_drain(self, **_: Any) -> None:
        """Begin the grace with the signal, because Celery's consumer takes seconds to notice it."""
        if self.agent and self._draining is None:
            draining = threading.Thread(target=self.agent.drain, name="drain")
            # If jobs have left the host no thread, the grace begins with ``stop``.
            with contextlib.suppress(RuntimeError):
                draining.start()
                self._draining = draining


def _answered(ask: Callable[[], T]) -> T:
    """Return the answer once MongoDB gives one; a wrong configuration ends this process."""
    while True:
        try:
            return ask()
        except Exception as error:
            if is_unavailable(error):
                events.warn("agent.waits_for_store", error=str(error))
                # A signal that came meanwhile ends this wait, as it ends Celery's for its broker.
                state.maybe_shutdown()
                time.sleep(_RETRY_SECONDS)
            elif isinstance(error, TaskyardError):
                events.warn("agent.cannot_start", error=str(error))
                raise SystemExit(error.exit_code) from None
            else:
                raise
