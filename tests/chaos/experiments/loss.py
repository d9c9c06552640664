"""Rows 5 and 6: an agent is killed, and its running and assigned jobs run elsewhere."""

from __future__ import annotations

import random
import signal
import time

from tests.chaos import watch
from tests.chaos.cluster import Program
from tests.chaos.plan import JobPlan
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row, timed

#: Jobs submitted at once; some of them are assigned to an agent that cannot start them.
_PREFETCHED = 20


def recovery(arena: Arena, rounds: int, dice: random.Random) -> list[Row]:
    """Measure from kill -9 of an agent, which is not restarted, to its job's next start line."""
    seconds = []
    for number in range(rounds):
        (job_id,) = watch.submit(arena, JobPlan(seconds=(arena.lease * 4 + 30, 0.1)))
        watch.await_run(arena, job_id, 1)
        agent = watch.holder(arena, job_id)
        # Kill at a random time between two renewals of the lease.
        arena.pause(dice.uniform(0, arena.lease / 3))
        killed_at = _kill(agent)
        again = watch.await_run(arena, job_id, 2)
        seconds.append(again.began - killed_at)
        arena.say(f"round {number + 1}: {agent.name} was killed, {seconds[-1]:.2f} s to recover")
        watch.await_status(arena, [job_id], "COMPLETED")
        _lost = [e for e in watch.document(arena, job_id)["history"] if e["verb"] == "expire"]
        assert [entry["attempt"] for entry in _lost] == [1], _lost
        agent.wanted = True
        arena.cluster.await_ready()
    # The bounds fit the default lease: at worst a full lease, then a sweep and a start.
    p50, p99 = arena.lease, arena.lease + 10
    return [
        timed(
            "5",
            "kill -9 of an agent to its job's next start",
            seconds,
            lease=arena.lease,
            p50=p50,
            p99=p99,
        )
    ]


def prefetched(arena: Arena, rounds: int, _dice: random.Random) -> list[Row]:
    """Measure from kill -9 of an agent to the start of jobs assigned to it but not started."""
    seconds = []
    for number in range(rounds):
        agent = arena.cluster.of("agent")[number % 2]
        plan = JobPlan(seconds=(0.1,))
        job_ids, mine = watch.give_to_stopped(arena, agent, plan, _PREFETCHED)
        killed_at = _kill(agent)
        watch.await_status(arena, job_ids, "COMPLETED")
        lives = watch.last_lives(arena, mine)
        seconds += [run.began - killed_at for run in lives.values()]
        arena.say(f"round {number + 1}: {len(mine)} jobs were given to {agent.name} in vain")
        agent.wanted = True
        arena.cluster.await_ready()
    return [
        timed(
            "6",
            "jobs given to a killed agent and not started, to their start",
            seconds,
            lease=arena.lease,
            p99=arena.lease + 5,
        )
    ]


def _kill(agent: Program) -> float:
    """Kill the main process without a restart; returns the wall-clock time."""
    agent.wanted = False
    killed_at = time.time()
    agent.send(signal.SIGKILL)
    return killed_at
