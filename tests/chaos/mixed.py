"""The mixed run: every kind of job under every kind of fault (rows 1, 2, 4, 9, 10, 12)."""

from __future__ import annotations

from tests.chaos import scoreboard
from tests.chaos.checker import Violation
from tests.chaos.plan import Plan
from tests.chaos.run import Arena, judge, play
from tests.chaos.scoreboard import Row


def mixed(arena: Arena, plan: Plan) -> tuple[list[Row], list[Violation]]:
    """Play the plan; returns the rows and what is wrong."""
    play(arena, plan)
    found, violations = judge(arena)
    jobs, lease = len(found.accepted), arena.lease
    answers = arena.load.answers
    restarted = sum(1 for run in found.runs if run.attempt > 1)
    arena.say(f"{jobs} jobs accepted, {len(found.runs)} runs, {restarted} of them repeated")
    arena.say(f"answers by status (0: no answer): {dict(sorted(answers.statuses.items()))}")
    rows = scoreboard.checked(violations, n=jobs, lease=lease)
    rows.append(
        scoreboard.timed(
            "7", "from submit to 2xx, retries included", answers.seconds, lease=lease, p99=15
        )
    )
    return rows, violations
