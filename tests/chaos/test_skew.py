"""Wrong clocks on all hosts but the database's break no rule."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson.codec_options import CodecOptions
from pymongo.database import Database

from taskyard.store.connection import server_time
from tests.chaos import plan, skew
from tests.chaos.cluster import Topology
from tests.chaos.mixed import mixed
from tests.chaos.run import arena

SEED = 15
LEASE_SECONDS = 3.0
SKEW_SECONDS = 300.0


@pytest.mark.timeout(240)
def test_clocks_that_are_five_minutes_wrong_change_nothing(tmp_path: Path) -> None:
    assert skew.library(), "the test extra brings libfaketime for Linux on x86-64"
    planned = plan.make(
        SEED,
        seconds=10,
        jobs_per_second=4,
        kinds=("agent-kill", "agent-pause", "scheduler-kill"),
        fault_every=3,
        lease=LEASE_SECONDS,
    )
    topology = Topology(
        webs=2, beats=2, schedulers=2, agents=3, lease=LEASE_SECONDS, skew=SKEW_SECONDS
    )
    with arena(topology, folder=tmp_path) as running:
        before = _server_time(running.cluster.database)
        rows, violations = mixed(running, planned)
        aware: CodecOptions[dict[str, Any]] = CodecOptions(tz_aware=True)
        jobs = list(running.cluster.database.get_collection("jobs", aware).find())
        after = _server_time(running.cluster.database)
    assert violations == [], "\n".join(map(str, violations))
    assert all(row.n for row in rows), rows
    slack = timedelta(seconds=1)
    for job in jobs:
        for instant in (job["createdAt"], job["completedAt"]):
            assert before - slack < instant < after + slack, job


def _server_time(database: Database[dict[str, Any]]) -> datetime:
    return server_time(database.client)
