"""Which messages a pass sends to agents, without a broker."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from taskyard import ids, wiring
from taskyard.jobs import lifecycle
from taskyard.jobs.transition import Moment, Transition
from tests import factories
from tests.factories import NOW


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the jobs in the messages that were sent to agents."""
    jobs: list[str] = []

    def send_task(_name: str, *, args: list[Any], **_: Any) -> None:
        jobs.append(args[0])

    pool = SimpleNamespace(acquire=lambda block: nullcontext())
    app = SimpleNamespace(producer_pool=pool, send_task=send_task)
    monkeypatch.setitem(sys.modules, "taskyard.celery_app", SimpleNamespace(app=app))
    return jobs


def assigned() -> Transition:
    lease_id, start_by = ids.lease(), NOW + timedelta(seconds=15)
    job, at = factories.queued_job(), Moment(now=NOW)
    return lifecycle.assign(job, worker_id="w1", lease_id=lease_id, at=at, start_by=start_by)


@pytest.mark.parametrize(("seconds", "hints"), [(60, 3), (0, 1)])
def test_agents_are_told_of_their_jobs_but_for_no_longer_than_the_sweep_can_wait(
    monkeypatch: pytest.MonkeyPatch, told: list[str], seconds: float, hints: int
) -> None:
    monkeypatch.setattr(wiring, "ANNOUNCE_SECONDS", seconds)
    transitions = [assigned() for _ in range(3)]
    wiring.announce(transitions)
    assert told == [transition.job_id for transition in transitions[:hints]]
