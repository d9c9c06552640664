"""The composition root: a process's one Platform, built on first use."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from taskyard import settings as settings_module
from taskyard.celery_names import queue_of
from taskyard.context import Platform
from taskyard.jobs.transition import Transition
from taskyard.nudges import Nudges
from taskyard.store.client import connect


@functools.cache
def platform() -> Platform:
    """This process's platform. Raises ConfigurationError, StoreUnavailable."""
    settings = settings_module.load()
    return Platform(settings=settings, store=connect(settings), announce=announce, soon=Nudges())


def announce(assigned: Sequence[Transition]) -> None:
    """Tell each agent of its job on the agent's own queue; the hint expires with the job's
    start deadline.
    """
    from taskyard.celery_app import app

    expires = settings_module.load().start_deadline_seconds
    with app.producer_pool.acquire(block=True) as producer:
        for transition in assigned:
            lease = transition.changes
            app.send_task(
                "taskyard.execute",
                args=[transition.job_id, lease["attempts"], lease["leaseId"]],
                queue=queue_of(lease["assignedAgentId"]),
                expiration=expires,
                producer=producer,
                # A hint: whoever waits for this pass does not wait for that.
                retry=False,
            )
