"""The composition root: a process's one Platform, built on first use."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence

from taskyard import settings as settings_module
from taskyard.celery_names import queue_of
from taskyard.context import Platform
from taskyard.jobs.transition import Transition
from taskyard.nudges import Nudges
from taskyard.store.client import connect

#: How long one pass sends hints to agents. Each hint waits for a majority; meanwhile a scheduler
#: runs no tick, and a sweep that comes late holds itself back. An agent finds jobs without a hint
#: at its next heartbeat.
ANNOUNCE_SECONDS = 1.0


@functools.cache
def platform() -> Platform:
    """This process's platform. Raises ConfigurationError, StoreUnavailable."""
    settings = settings_module.load()
    return Platform(settings=settings, store=connect(settings), announce=announce, soon=Nudges())


def announce(assigned: Sequence[Transition]) -> None:
    """Send agents hints of their jobs, each on its own queue, for ``ANNOUNCE_SECONDS`` at most; a
    hint expires with the job's start deadline.
    """
    from taskyard.celery_app import app

    expires = settings_module.load().start_deadline_seconds
    ends = time.monotonic() + ANNOUNCE_SECONDS
    with app.producer_pool.acquire(block=True) as producer:
        for transition in assigned:
            lease = transition.changes
            app.send_task(
                "taskyard.execute",
                args=[transition.job_id, lease["attempts"], lease["leaseId"]],
                queue=queue_of(lease["assignedAgentId"]),
                expiration=expires,
                producer=producer,
                # Only a hint: what waits for this pass must not wait for retries.
                retry=False,
            )
            if time.monotonic() >= ends:
                return
