"""One run: a plan's load and faults on a cluster, then a wait for quiet, then the checker."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from tests.chaos import checker, evidence, faults
from tests.chaos.checker import Violation
from tests.chaos.cluster import Cluster, Topology
from tests.chaos.evidence import Evidence
from tests.chaos.faults import Heal
from tests.chaos.load import Load
from tests.chaos.plan import Fault, Plan
from tests.helpers import eventually, waiting_step

Say = Callable[[str], None]

#: How long the system may take to become quiet after a run, in addition to four leases.
QUIET_SECONDS = 60.0

_LIVE = ["QUEUED", "ASSIGNED", "RUNNING"]


def say_now(words: str) -> None:
    """Print without buffering, so that a log file shows the words at once."""
    print(words, flush=True)


@dataclass(frozen=True, kw_only=True)
class Arena:
    """A running cluster with its load."""

    cluster: Cluster
    load: Load
    say: Say

    @property
    def lease(self) -> float:
        """Return the seconds of an agent's lease."""
        return self.cluster.topology.lease

    def pause(self, seconds: float) -> None:
        """Let time pass, for instance until a lease has ended, which no condition shows."""
        threading.Event().wait(seconds)


@contextmanager
def arena(topology: Topology, say: Say = say_now, folder: Path | None = None) -> Iterator[Arena]:
    """Run a platform, and clients for it."""
    folder = folder or Path(mkdtemp(prefix="taskyard-chaos-"))
    say(f"logs, and the jobs' own log: {folder}")
    with Cluster(folder, topology) as cluster:
        load = Load(cluster.urls(), cluster.job_log)
        try:
            yield Arena(cluster=cluster, load=load, say=say)
        finally:
            load.close()


def play(arena: Arena, plan: Plan) -> None:
    """Make the plan's submissions and inject its faults, each at its time; heal all faults."""
    arena.load.begin(plan.submissions)
    inject(arena, plan.faults)
    arena.load.finish()


def inject(arena: Arena, planned: Sequence[Fault]) -> None:
    """Inject faults at their times, counted from now, and heal each after its duration."""
    began, order = time.monotonic(), itertools.count()
    #: (time, order, a fault to inject or the function that heals one).
    due: list[tuple[float, int, Fault | Heal]] = [(f.at, next(order), f) for f in planned]
    heapq.heapify(due)
    while due:
        at, _, what = heapq.heappop(due)
        while time.monotonic() < began + at:
            waiting_step()
        if not isinstance(what, Fault):
            what()
        elif heal := _strike(arena, what):
            heapq.heappush(due, (at + what.seconds, next(order), heal))


def judge(arena: Arena) -> tuple[Evidence, list[Violation]]:
    """Wait until the system is quiet, gather the evidence, and apply every rule."""
    cluster = arena.cluster
    cluster.await_ready()
    patience = QUIET_SECONDS + 4 * arena.lease
    with suppress(AssertionError):  # the checker reports what is not quiet by then
        eventually(lambda: _quiet(cluster), patience)
    with suppress(AssertionError):
        eventually(lambda: not evidence.survivors(arena.load.answers.accepted), 5)
    found = evidence.gather(
        arena.load.answers,
        database=cluster.database,
        job_log=cluster.job_log,
        url=cluster.urls()[0],
        own_ends=cluster.own_ends(),
        logs=[program.log for program in cluster.programs],
        skew=cluster.topology.skew,
    )
    return found, checker.check(found)


def _strike(arena: Arena, fault: Fault) -> Heal | None:
    arena.say(str(fault))
    try:
        return faults.strike(arena.cluster, fault)
    except faults.Impossible as reason:
        arena.say(f"           left out: {reason}")
        return None


def _quiet(cluster: Cluster) -> bool:
    if cluster.database["jobs"].count_documents({"status": {"$in": _LIVE}}):
        return False
    left = Evidence(messages=evidence.messages_left(cluster.database, cluster.topology.skew))
    return not list(checker.queues_drain(left))
