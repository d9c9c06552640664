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

#: How long one pass tells agents of its jobs. Each hint waits for a majority; meanwhile a scheduler
#: runs no tick, and a sweep that comes late holds itself back. An agent finds with its next
#: heartbeat what it was not told of.
ANNOUNCE_SECONDS = 1.0


@functools.cache
def platform() -> Platform:
    """This process's platform. Raises ConfigurationError, StoreUnavailable."""
    settings = settings_module.load()
    return Platform(settings=settings, store=connect(settings), announce=announce, soon=Nudges())


def announce(assigned: Sequence[Transition]) -> None:
    """Tell agents of their jobs, each on its own queue, for so long and no longer; a hint expires
    with the job's start deadline.
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
                # A hint: whoever waits for this pass does not wait for that.
                retry=False,
            )
            if time.monotonic() >= ends:
                return
