"""The Celery tasks: the scheduler's ticks, and the hint that tells an agent of a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskyard import wiring
from taskyard.celery_app import app
from taskyard.celery_names import SCHEDULER_QUEUE
from taskyard.jobs.model import Lease
from taskyard.scheduler import ticks


@app.task(name="taskyard.tick")
def tick(*names: str, until: int | None = None) -> None:
    """Run the scheduler's ticks of these names; ``until`` (epoch ms) is set when they go on."""
    ticks.run_in_turns(wiring.platform(), names, until=until, go_on=_go_on)


def _go_on(names: Sequence[str], until: int, expiration: float) -> None:
    app.send_task(
        "taskyard.tick",
        args=list(names),
        kwargs={"until": until},
        queue=SCHEDULER_QUEUE,
        expiration=expiration,
    )


@app.task(name="taskyard.execute", bind=True)
def execute(self: Any, job_id: str, attempt: int, lease_id: str) -> None:
    """Hand an assigned job to this agent's runner, which does the rest."""
    agent = self.app.agent
    agent.run_assigned(
        Lease(job_id=job_id, worker_id=agent.worker_id, attempt=attempt, lease_id=lease_id)
    )
