"""Row 8: connections break and the primary refuses commands while a hundred jobs run."""

from __future__ import annotations

import random

from tests.chaos import watch
from tests.chaos.plan import Fault, JobPlan
from tests.chaos.run import Arena, inject
from tests.chaos.scoreboard import Row, counted

_JOBS = 100

#: Long enough that all jobs have begun before the first ends.
_JOB_SECONDS = 25.0

#: The blips: both MongoDB clients of every process, and the network of one agent.
_STRUCK = (
    *(("not-primary", 0), ("not-primary", 1), ("reset", 0), ("reset", 1)),
    *(("no-majority", 0), ("no-majority", 1), ("agent-refused", 0)),
)

_BLIPS = tuple(
    Fault(at=2.0 * number, kind=kind, which=which, seconds=1.0)
    for number, (kind, which) in enumerate(_STRUCK)
)


def blip(arena: Arena, rounds: int, _dice: random.Random) -> list[Row]:
    """Count the jobs that are run again because of a blip; there should be none."""
    again = jobs = 0
    for _ in range(rounds):
        job_ids = watch.submit(arena, *[JobPlan(seconds=(_JOB_SECONDS,), stdout_bytes=500)] * _JOBS)
        watch.await_status(arena, job_ids, "RUNNING")
        inject(arena, _BLIPS)
        watch.await_status(arena, job_ids, "COMPLETED")
        lives = watch.last_lives(arena, job_ids)
        again += sum(1 for run in lives.values() if run.attempt > 1)
        jobs += len(job_ids)
    return [counted("8", "runs repeated because of a blip", again, n=jobs, lease=arena.lease)]
