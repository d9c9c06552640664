"""Row 10: a cancel works in every state of a job, and leaves no process."""

from __future__ import annotations

import random
import signal
import time
from dataclasses import replace

from tests.chaos import watch
from tests.chaos.plan import JobPlan
from tests.chaos.proxy import Mode
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row, counted, timed

_LONG = JobPlan(seconds=(60.0,))
_STUBBORN = JobPlan(seconds=(60.0,), ignores_term=True, setsid_child=True)
_UNPLACEABLE = JobPlan(wanted={"labels": ["nobody-has-this"]})


def cancel(arena: Arena, rounds: int, _dice: random.Random) -> list[Row]:
    """Cancel jobs that are queued, assigned, running, stubborn, and on an agent that is cut off."""
    obedient, stubborn = list[float](), list[float]()
    never: list[str] = []
    for _ in range(rounds):
        never += _cancelled_while_queued(arena)
        never += _cancelled_while_assigned(arena)
        obedient.append(_cancelled_while_running(arena, _LONG))
        stubborn.append(_cancelled_while_running(arena, _STUBBORN))
        _cancelled_while_cut_off(arena)
    grace = arena.cluster.topology.kill_grace
    started = len(watch.last_lives(arena, never))
    lease = arena.lease
    return [
        timed(
            "10", "cancel of a running job to its last sign of life", obedient, lease=lease, p99=2
        ),
        timed(
            "10",
            f"the same, SIGTERM ignored (grace {grace:g} s) and setsid",
            stubborn,
            lease=lease,
            p99=grace + 2,
        ),
        counted(
            "10",
            "starts of what was cancelled queued or assigned",
            started,
            n=len(never),
            lease=lease,
        ),
    ]


def _cancelled_while_queued(arena: Arena) -> list[str]:
    job_ids = watch.submit(arena, _UNPLACEABLE)
    _cancel(arena, job_ids)
    return job_ids


def _cancelled_while_assigned(arena: Arena) -> list[str]:
    """Cancel jobs that are assigned to a stopped agent, which cannot start them."""
    agent = arena.cluster.of("agent")[0]
    plan = JobPlan(seconds=(0.1,))
    job_ids, mine = watch.give_to_stopped(arena, agent, plan, 6)
    _cancel(arena, mine)
    agent.send(signal.SIGCONT)
    watch.await_status(arena, job_ids, "COMPLETED", "CANCELLED")
    return mine


def _cancelled_while_running(arena: Arena, plan: JobPlan) -> float:
    (job_id,) = watch.submit(arena, plan)
    watch.await_run(arena, job_id, 1)
    asked_at = time.time()
    _cancel(arena, [job_id])
    return watch.last_lives(arena, [job_id])[job_id].last - asked_at


def _cancelled_while_cut_off(arena: Arena) -> None:
    """Cancel a job on an agent that is cut off: the agent kills it, and it ends with its lease."""
    assert arena.cluster.proxy is not None
    agent = arena.cluster.of("agent")[-1]
    job_ids = watch.submit(arena, replace(_STUBBORN, wanted={"labels": [agent.name]}))
    watch.await_run(arena, job_ids[0], 1)
    arena.cluster.proxy.set(Mode.DROP)
    _cancel(arena, job_ids)
    arena.cluster.proxy.set(Mode.PASS)
    arena.cluster.await_ready()


def _cancel(arena: Arena, job_ids: list[str]) -> None:
    for job_id in job_ids:
        arena.load.cancel(job_id)
    watch.await_status(arena, job_ids, "CANCELLED")
