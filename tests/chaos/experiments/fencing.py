"""Row 3: an agent is stopped past its leases, its jobs run elsewhere, and it is resumed."""

from __future__ import annotations

import random
import signal
from collections import Counter

from tests.chaos import watch
from tests.chaos.cluster import Program
from tests.chaos.holds import steps
from tests.chaos.plan import JobPlan
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row, counted

#: Jobs at once; about half of them run on the agent that is stopped.
_JOBS = 10

_LEASES = 3

_IN_FLIGHT_SECONDS = 0.5


def fencing(arena: Arena, rounds: int, dice: random.Random) -> list[Row]:
    """SIGSTOP an agent for three leases, and SIGCONT it while its jobs run elsewhere."""
    stale: list[str] = []
    stopped = tried = 0
    for number in range(rounds):
        job_ids = watch.submit(arena, *(_job(arena, dice) for _ in range(_JOBS)))
        for job_id in job_ids:
            watch.await_run(arena, job_id, 1)
        agent = _busiest(arena, job_ids)
        before = _refusals(agent)
        agent.send(signal.SIGSTOP)
        mine = _held(arena, job_ids, agent)
        for job_id in mine:
            watch.await_run(arena, job_id, 2)
        arena.pause((_LEASES - 1) * arena.lease)
        told = {job_id: _written_by_the_first(arena, job_id) for job_id in mine}
        agent.send(signal.SIGCONT)
        arena.cluster.await_ready()
        watch.await_status(arena, job_ids, "COMPLETED")
        stopped += len(mine)
        tried += _refusals(agent) - before
        stale += [job for job in mine if _has_more(_written_by_the_first(arena, job), told[job])]
        arena.say(f"round {number + 1}: {agent.name} slept over {len(mine)} jobs")
    arena.say(f"late writes that agents tried, and were refused: {tried}")
    for job_id in stale:
        arena.say(f"stale write accepted: {job_id}")
    return [
        counted(
            "3",
            "stale writes accepted (result, output, renewal, release)",
            len(stale),
            n=stopped,
            lease=arena.lease,
        )
    ]


def _job(arena: Arena, dice: random.Random) -> JobPlan:
    """A job whose first attempt ends while its agent is stopped, or would go on after that.

    The second attempt still runs when the agent is resumed.
    """
    first = dice.choice((arena.lease / 2 + 1, 6.0 * arena.lease))
    seconds = (first, 3.0 * arena.lease)
    return JobPlan(seconds=seconds, stdout_bytes=3000, stderr_bytes=300)


def _busiest(arena: Arena, job_ids: list[str]) -> Program:
    """Return the agent that runs most of these jobs."""
    ((agent, _),) = Counter(watch.holder(arena, job_id) for job_id in job_ids).most_common(1)
    return agent


def _held(arena: Arena, job_ids: list[str], agent: Program) -> list[str]:
    """Return the jobs that are RUNNING on the stopped agent once its last writes have arrived."""
    arena.pause(_IN_FLIGHT_SECONDS)
    held = {"_id": {"$in": job_ids}, "status": "RUNNING", "assignedAgentId": agent.name}
    return [found["_id"] for found in arena.cluster.database["jobs"].find(held, {"_id": 1})]


def _written_by_the_first(arena: Arena, job_id: str) -> tuple[int, int, int]:
    """Count the first attempt's writes: its transitions, its chunks, the job's inline output."""
    document = watch.document(arena, job_id)
    entries = [entry for entry in steps(document) if entry["attempt"] == 1]
    chunks = arena.cluster.database["output"].count_documents({"_id.j": job_id, "_id.a": 1})
    return len(entries), chunks, int(document["outputAttempt"] == 1)


def _has_more(now: tuple[int, ...], told: tuple[int, ...]) -> bool:
    """Whether any count has grown; a count may shrink, as unaccepted writes may be removed."""
    return any(after > before for after, before in zip(now, told, strict=True))


def _refusals(agent: Program) -> int:
    """Count the agent's late writes that were refused, by its own log."""
    return agent.log.read_text(errors="replace").count("write_refused")
