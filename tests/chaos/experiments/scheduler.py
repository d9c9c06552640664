"""Row 13: schedulers and beats are killed and paused one by one, under load."""

from __future__ import annotations

import random
import signal
import time
from datetime import UTC, datetime

from tests.chaos import plan
from tests.chaos.cluster import Program
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row, timed
from tests.helpers import eventually

#: How long a paused process is stopped, in the middle of what it was doing.
_PAUSE_SECONDS = 5.0

_JOBS_PER_SECOND = 3


def scheduler(arena: Arena, rounds: int, dice: random.Random) -> list[Row]:
    """Measure from the kill or pause of one process to the next tick of another."""
    seconds = []
    each = arena.lease / 3 + 1
    load = plan.make(
        dice.randrange(10**6),
        seconds=rounds * each,
        jobs_per_second=_JOBS_PER_SECOND,
        kinds=(),
        fault_every=1,
        lease=arena.lease,
    )
    arena.load.begin(load.submissions)
    for _ in range(rounds):
        struck = dice.choice([*arena.cluster.of("scheduler"), *arena.cluster.of("beat")])
        pause = dice.random() < 0.5
        seconds.append(_strike(arena, struck, pause=pause))
        arena.say(f"{struck.name} {'paused' if pause else 'killed'}: {seconds[-1]:.2f} s")
        arena.pause(each)
    arena.load.finish()
    return [
        timed(
            "13", "a scheduler or beat dies, to the next tick", seconds, lease=arena.lease, p99=15
        )
    ]


def _strike(arena: Arena, struck: Program, *, pause: bool) -> float:
    locks = arena.cluster.database["locks"]
    struck_at, began = datetime.now(UTC), time.monotonic()
    struck.send(signal.SIGSTOP if pause else signal.SIGKILL)
    later = {"_id": "tick.timeouts", "at": {"$gt": struck_at}}
    eventually(lambda: locks.count_documents(later) == 1, 60)
    taken = time.monotonic() - began
    if pause:
        arena.pause(max(0.0, _PAUSE_SECONDS - taken))
        struck.send(signal.SIGCONT)
    return taken
