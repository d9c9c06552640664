"""Row 11: a timeout ends a job that ignores SIGTERM, with all the processes that it left."""

from __future__ import annotations

import random

from tests.chaos import watch
from tests.chaos.plan import JobPlan
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row, timed

_LIMIT_SECONDS = 1.5
_AT_ONCE = 20

_STUBBORN = JobPlan(
    seconds=(60.0,),
    ignores_term=True,
    setsid_child=True,
    wanted={"timeoutMs": int(_LIMIT_SECONDS * 1000), "maxRetries": 0},
)


def timeout(arena: Arena, rounds: int, _dice: random.Random) -> list[Row]:
    """Time out jobs that ignore SIGTERM and have a child in a session of its own."""
    lived: list[float] = []
    while len(lived) < rounds:
        count = min(_AT_ONCE, rounds - len(lived))
        job_ids = watch.submit(arena, *[_STUBBORN] * count)
        watch.await_status(arena, job_ids, "FAILED")
        lives = watch.last_lives(arena, job_ids)
        lived += [lives[job_id].last - lives[job_id].began for job_id in job_ids]
    grace = arena.cluster.topology.kill_grace
    check = f"life of a job with a limit of {_LIMIT_SECONDS:g} s, grace {grace:g} s"
    return [timed("11", check, lived, lease=arena.lease, p99=_LIMIT_SECONDS + grace + 1)]
