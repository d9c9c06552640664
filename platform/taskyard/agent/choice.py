"""Which jobs of the queue, as it was seen, an agent claims for its places."""

from __future__ import annotations

import random
from collections.abc import Sequence

from taskyard.jobs.model import Job
from taskyard.workers import places
from taskyard.workers.places import Place

#: Most jobs in one claim.
AT_ONCE = 64


def choose(queue: Sequence[Job], spot: Place, short: Sequence[Job], ahead: int) -> list[Job]:
    """Return the jobs of the queue to claim: those that fit now, and up to ``ahead`` more.

    Each of the latter needs no more than one of the short jobs. ``spot`` is filled with the former.
    """
    chosen: list[Job] = []
    for job in queue:
        if len(chosen) >= AT_ONCE:
            break
        if places.obstacle(spot, job, job.requirement) is None:
            spot.take(job)
            chosen.append(job)
        elif ahead > 0 and _may_wait(job, spot, short):
            ahead -= 1
            chosen.append(job)
    return chosen


def spread(queue: Sequence[Job]) -> Sequence[Job]:
    """Return the queue with its first jobs, those of the highest priority, in random order.

    Agents that all begin with the oldest job lose most of their claims to each other.
    """
    count = sum(job.priority == queue[0].priority for job in queue)
    return [*random.sample(queue[:count], count), *queue[count:]]


def _may_wait(job: Job, spot: Place, short: Sequence[Job]) -> bool:
    """Whether a job may be claimed before it has a place.

    Not if it has lost a worker, since it might take the jobs that wait beside it along; nor if its
    input has to be fetched first.
    """
    plain = not (job.losses or job.has_input)
    return (
        plain
        and places.closed(spot, job) is None
        and any(places.needs_no_more(job, other) for other in short)
    )
