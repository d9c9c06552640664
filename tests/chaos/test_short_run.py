"""A short chaos run with a short lease and a fixed seed: every rule, on real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos import plan, watch
from tests.chaos.cluster import Topology
from tests.chaos.mixed import mixed
from tests.chaos.plan import JobPlan
from tests.chaos.run import Arena, arena

SEED = 3
LEASE_SECONDS = 3.0

#: At least one kind of each family of faults; the long runs have all kinds.
KINDS = (
    *("agent-kill", "keeper-kill", "agent-pause", "agent-cut-off"),
    *("scheduler-kill", "web-kill"),
    *("not-primary", "reset", "primary-kill", "broker-wipe", "disk-full"),
)


@pytest.mark.timeout(240)
def test_nothing_is_lost_under_faults_of_every_family(tmp_path: Path) -> None:
    planned = plan.make(
        SEED,
        seconds=22,
        jobs_per_second=4,
        kinds=KINDS,
        fault_every=2.2,
        lease=LEASE_SECONDS,
    )
    assert {fault.kind for fault in planned.faults} >= {"agent-kill", "agent-pause"}
    topology = Topology(webs=2, beats=1, schedulers=2, agents=3, lease=LEASE_SECONDS)
    with arena(topology, folder=tmp_path) as running:
        long_jobs = _one_on_each_agent(running)
        rows, violations = mixed(running, planned)
        lost = [job for job in long_jobs if watch.document(running, job)["attempts"] > 1]
    assert violations == [], "\n".join(map(str, violations))
    assert all(row.n for row in rows), rows
    assert lost, "no job was ever lost and recovered: the faults have not struck"


def _one_on_each_agent(running: Arena) -> list[str]:
    """Start one job on each agent that lasts as long as the faults, unless its agent is lost."""
    agents = running.cluster.of("agent")
    plans = [JobPlan(seconds=(26.0, 0.2), wanted={"labels": [agent.name]}) for agent in agents]
    job_ids = watch.submit(running, *plans)
    watch.await_status(running, job_ids, "RUNNING")
    return job_ids
