"""Late writes of HTTP agents: refused, counted, and shown where people look."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from taskyard.context import Platform
from tests.api.agents import HttpAgent, status_of, submit_job

LetPass = Callable[[float], None]


def refused(client: FlaskClient, job_id: str) -> list[tuple[int, str, str]]:
    """Return the refused writes in the job's history: attempt, worker and kind."""
    history = status_of(client, job_id)["history"]
    return [
        (entry["attempt"], entry["worker"], entry["reason"].split()[0])
        for entry in history
        if entry["verb"] == "refuse"
    ]


@pytest.fixture(params=[True, False], ids=["fenced", "unfenced"])
def late(
    request: pytest.FixtureRequest, api: FlaskClient, let_pass: LetPass
) -> tuple[HttpAgent, str]:
    """An agent that was silent for too long, and its job, which another agent runs by now."""
    agent = HttpAgent(api, "w1", fenced=request.param)
    agent.register()
    job_id = submit_job(api)
    agent.poll()
    agent.stream("alive")
    let_pass(40)
    other = HttpAgent(api, "w2")
    other.register()
    assert other.poll().get_json()["job"]["jobId"] == job_id
    return agent, job_id


@pytest.mark.parametrize(
    ("say", "kind"),
    [
        (lambda agent: agent.stream("late"), "output"),
        (lambda agent: agent.submit(0), "result"),
        (lambda agent: agent.fail(), "result"),
        (lambda agent: agent.cancelled(), "cancel"),
        (lambda agent: agent.heartbeat(jobs=[agent.job["jobId"]]), "heartbeat"),
    ],
    ids=["output", "result", "failure", "cancel", "heartbeat"],
)
def test_a_late_word_is_counted_and_told_of_once_and_changes_nothing(
    api: FlaskClient,
    platform: Platform,
    late: tuple[HttpAgent, str],
    say: Callable[[HttpAgent], Any],
    kind: str,
) -> None:
    agent, job_id = late
    before = status_of(api, job_id)
    say(agent)
    say(agent)
    after = status_of(api, job_id)
    assert refused(api, job_id) == [(1, "w1", kind)]
    assert after["refusedWrites"] == 2
    assert platform.store.counters.read()["refusedWrites"] == {kind: 2}
    for told in ("history", "refusedWrites"):
        before.pop(told), after.pop(told)
    assert after == before


def test_a_late_result_of_an_attempt_that_was_lost_for_good_is_refused(
    api: FlaskClient, let_pass: LetPass
) -> None:
    agent = HttpAgent(api, fenced=True)
    agent.register()
    job_id = submit_job(api, maxRetries=0)
    agent.poll()
    agent.stream("alive")
    let_pass(40)
    assert status_of(api, job_id)["status"] == "FAILED"
    assert agent.submit(0).status_code == 409
    assert status_of(api, job_id)["status"] == "FAILED"
    assert refused(api, job_id) == [(1, "w1", "result")]


def test_a_healthy_agent_leaves_no_refusal_behind(api: FlaskClient, platform: Platform) -> None:
    """A repeated result, and a heartbeat or cancel check after it, concern its own attempt."""
    agent = HttpAgent(api, fenced=True)
    agent.register()
    job_id = submit_job(api)
    agent.poll()
    agent.stream("x")
    agent.submit(0)
    agent.submit(0)
    agent.heartbeat(jobs=[job_id])
    agent.cancelled()
    assert refused(api, job_id) == []
    assert "refusedWrites" not in platform.store.counters.read()


def test_a_heartbeat_that_names_strangers_is_no_refused_write(
    api: FlaskClient, platform: Platform
) -> None:
    agent = HttpAgent(api)
    agent.register()
    assert agent.heartbeat(jobs=["never-was"]).get_json()["lost"] == ["never-was"]
    assert platform.store.counters.read() == {}
