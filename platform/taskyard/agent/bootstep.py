"""The agent as a part of a Celery worker: started before it consumes, drained before it ends."""

from __future__ import annotations

import threading
import time
from typing import Any, cast

from celery import bootsteps, signals
from celery.worker import state

from taskyard import events
from taskyard.agent.agent import Agent
from taskyard.celery_names import SCHEDULER_QUEUE, queue_of
from taskyard.context import Platform
from taskyard.errors import ConfigurationError, StoreUnavailable, TaskyardError

_RETRY_SECONDS = 1.0


class AgentStep(bootsteps.StartStopStep):  # type: ignore[misc] # Celery publishes no types
    """Makes every worker that is not a scheduler an agent on its own queue."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.agent: Agent | None = None
        self._draining: threading.Thread | None = None

    def include_if(self, worker: Any) -> bool:
        """Whether this worker is an agent."""
        return SCHEDULER_QUEUE not in worker.app.amqp.queues.consume_from

    def start(self, worker: Any) -> None:
        """Begin to consume the agent's own queue, register and heartbeat."""
        platform = _platform(worker)
        try:
            self.agent = Agent(platform, platform.settings.worker_id or worker.hostname)
        except ConfigurationError as error:
            raise _cannot_start(error) from None
        worker.app.agent = self.agent
        worker.app.amqp.queues.select_add(queue_of(self.agent.worker_id))
        self.agent.start()
        signals.worker_shutting_down.connect(self._begin_drain)

    def stop(self, _worker: Any) -> None:
        """Take no more, finish what runs within the grace, then leave."""
        self._begin_drain()
        if self._draining:
            self._draining.join()

    def terminate(self, _worker: Any) -> None:
        """Leave at once: what runs is stopped and given to others."""
        if self.agent:
            self.agent.drain(grace_seconds=0)

    def _begin_drain(self, **_: Any) -> None:
        """The grace begins with the signal: Celery's consumer takes seconds to notice it."""
        if self.agent and self._draining is None:
            self._draining = threading.Thread(target=self.agent.drain, name="drain")
            self._draining.start()


def _platform(worker: Any) -> Platform:
    """The platform, as soon as MongoDB answers; what is configured wrong ends this process."""
    while True:
        try:
            return cast(Platform, worker.app.platform())
        except StoreUnavailable as error:
            events.warn("agent.waits_for_store", error=str(error))
            # A signal that came meanwhile ends this wait, as it ends Celery's own for its broker.
            state.maybe_shutdown()
            time.sleep(_RETRY_SECONDS)
        except TaskyardError as error:
            raise _cannot_start(error) from None


def _cannot_start(error: TaskyardError) -> SystemExit:
    """What ends this process, with one line that says why."""
    events.warn("agent.cannot_start", error=str(error))
    return SystemExit(error.exit_code)
