"""The mixed runs: every kind of job under many kinds of fault (rows 1, 2, 4, 7, 9, 10, 12)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.chaos import plan, scoreboard
from tests.chaos.checker import Violation
from tests.chaos.plan import Plan
from tests.chaos.run import Arena, judge, play
from tests.chaos.scoreboard import Row


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A mixed run's parameters: kinds and rate of faults, mongods, output, and clock skew."""

    kinds: tuple[str, ...] = plan.KINDS
    fault_every: float = 5.0
    members: int = 1
    output_bytes: int = 4000
    #: Seconds by which all clocks but the database's are wrong.
    skew: float = 0.0


MIXES: Mapping[str, Mix] = {
    "mixed": Mix(),
    # Row 7: only the primary fails.
    "failover": Mix(kinds=plan.DATABASE, fault_every=30.0, members=3),
    # Row 15: every clock but the database's is wrong, and processes are killed and paused too.
    "skew": Mix(kinds=("agent-kill", "agent-pause", "scheduler-kill", "web-kill"), skew=300.0),
    # Row 12: much output, with failing commands and retries.
    "output": Mix(kinds=(*plan.COMMANDS, "agent-kill", "web-kill"), output_bytes=2**20),
}


def mixed(arena: Arena, planned: Plan) -> tuple[list[Row], list[Violation]]:
    """Play the plan; returns the scoreboard's rows and the violations."""
    play(arena, planned)
    found, violations = judge(arena)
    jobs, lease = len(found.accepted), arena.lease
    answers = arena.load.answers
    repeated = sum(1 for run in found.runs if run.attempt > 1)
    arena.say(f"{jobs} jobs accepted, {len(found.runs)} runs, {repeated} of them repeated")
    arena.say(f"answers by status (0: no answer): {dict(sorted(answers.statuses.items()))}")
    stall = scoreboard.timed(
        "7", "from a submit's first try to its 2xx", answers.seconds, lease=lease, p99=15
    )
    rows = [*scoreboard.checked(violations, n=jobs, lease=lease), stall]
    if seconds := arena.cluster.topology.skew:
        check = f"violations with all clocks ±{seconds:g} s wrong"
        rows.append(scoreboard.counted("15", check, len(violations), n=jobs, lease=lease))
    return rows, violations
