"""Row 14: an idle platform starts a job within milliseconds."""

from __future__ import annotations

import random

from tests.chaos import watch
from tests.chaos.plan import JobPlan
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row, timed


def dispatch(arena: Arena, rounds: int, _dice: random.Random) -> list[Row]:
    """Measure one job at a time from its arrival at web to its start, by the database's clock."""
    waits: list[float] = []
    for _ in range(rounds):
        (job_id,) = watch.submit(arena, JobPlan(seconds=(0.0,)))
        watch.await_status(arena, [job_id], "COMPLETED")
        job = watch.document(arena, job_id)
        waits.append((job["startedAt"] - job["createdAt"]).total_seconds())
    check = "idle, from submit to start"
    return [timed("14", check, waits, lease=arena.lease, p50=0.010, p99=0.050)]
