"""The Celery tasks: the scheduler's ticks, and the hint that tells an agent of a job."""

from __future__ import annotations

from typing import Any

from taskyard import wiring
from taskyard.celery_app import app
from taskyard.context import Platform
from taskyard.jobs.model import Lease
from taskyard.scheduler import health, retention, timeouts


@app.task(name="taskyard.tick")
def tick(name: str) -> None:
    """Run one tick. Two at once, or one too many, change nothing."""
    platform = wiring.platform()
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


@app.task(name="taskyard.execute", bind=True)
def execute(self: Any, job_id: str, attempt: int, lease_id: str) -> None:
    """Hand an assigned job to this agent's runner, which does the rest."""
    agent = self.app.agent
    agent.runner.offer(
        Lease(job_id=job_id, worker_id=agent.worker_id, attempt=attempt, lease_id=lease_id)
    )


def _expire(platform: Platform) -> None:
    """What the sweep put back into the queue is placed at once."""
    if timeouts.tick(platform.store, platform.settings).requeued:
        platform.nudge("expired")
