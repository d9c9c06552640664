"""One experiment for each row of the scoreboard that needs an experiment of its own.

Each takes the arena, a number of rounds and a random generator, prints what happens, and returns
its rows. The checker examines every run afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.cluster import Topology
from tests.chaos.experiments import blip, cancel, dispatch, fencing, loss, scheduler, timeout
from tests.chaos.run import Arena
from tests.chaos.scoreboard import Row


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """An experiment's function, its default number of rounds, and its topology."""

    run: Callable[[Arena, int, random.Random], list[Row]]
    rounds: int
    topology: Topology


_TWO_AGENTS = Topology(webs=1, beats=1, schedulers=1, agents=2)
_THREE_AGENTS = Topology(webs=1, beats=1, schedulers=1, agents=3)

EXPERIMENTS: Mapping[str, Experiment] = {
    "recovery": Experiment(run=loss.recovery, rounds=20, topology=_THREE_AGENTS),
    "prefetched": Experiment(run=loss.prefetched, rounds=5, topology=_TWO_AGENTS),
    "fencing": Experiment(run=fencing.fencing, rounds=20, topology=_TWO_AGENTS),
    "blip": Experiment(run=blip.blip, rounds=1, topology=_THREE_AGENTS),
    "cancel": Experiment(run=cancel.cancel, rounds=10, topology=_THREE_AGENTS),
    "timeout": Experiment(run=timeout.timeout, rounds=100, topology=_TWO_AGENTS),
    "dispatch": Experiment(run=dispatch.dispatch, rounds=100, topology=_TWO_AGENTS),
    "scheduler": Experiment(
        run=scheduler.scheduler,
        rounds=50,
        topology=Topology(webs=2, beats=3, schedulers=3, agents=2, cpus=4),
    ),
}
