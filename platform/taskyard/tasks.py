"""The Celery tasks: the scheduler's ticks, and the hint that tells an agent of a job."""

from __future__ import annotations

from typing import Any

from taskyard import wiring
from taskyard.celery_app import app
from taskyard.jobs.model import Lease
from taskyard.scheduler import ticks


@app.task(name="taskyard.tick")
def tick(*names: str) -> None:
    """Run these of the scheduler's ticks."""
    ticks.run_all(wiring.platform(), names)


@app.task(name="taskyard.execute", bind=True)
def execute(self: Any, job_id: str, attempt: int, lease_id: str) -> None:
    """Hand an assigned job to this agent's runner, which does the rest."""
    agent = self.app.agent
    agent.runner.offer(
        Lease(job_id=job_id, worker_id=agent.worker_id, attempt=attempt, lease_id=lease_id)
    )
