"""The system's routes: passes, ticks, queues, dead letters, the database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from pymongo.errors import AutoReconnect

from taskyard.broker.messages import Messages
from taskyard.context import Platform
from taskyard.store import passes
from tests.api.agents import submit_job
from tests.api.conftest import As

Tick = Callable[[str], None]


def system(api: FlaskClient) -> dict[str, Any]:
    answer = api.get("/api/system")
    assert answer.status_code == 200, answer.text
    return dict(answer.get_json())


def register(platform: Platform) -> None:
    facts: dict[str, Any] = {"kind": "celery", "bootId": "b", "cpuCount": 2, "ramTotalMb": 1024}
    now = platform.store.clock.now()
    platform.store.workers.register("c1", {"hostname": "h", **facts}, now=now)


def test_a_pass_says_what_it_did(api: FlaskClient, platform: Platform, tick: Tick) -> None:
    register(platform)
    for _ in range(3):
        submit_job(api)
    tick("assignment")
    last, *before = system(api)["passes"]
    # The third pass found no free worker; in that case only the tick looks at the queue.
    assert len(before) == 2
    assert (last["trigger"], last["queued"], last["assigned"]) == ("tick", 1, 0)
    assert before[0]["workers"] == {"c1": 1}
    assert before[0]["ms"] > 0


def test_a_pass_with_nothing_to_do_is_not_noted(
    api: FlaskClient, platform: Platform, tick: Tick
) -> None:
    register(platform)
    tick("assignment")
    assert system(api)["passes"] == []


def test_the_collection_of_passes_is_bounded(platform: Platform) -> None:
    options = platform.store.database[passes.COLLECTION].options()
    assert (options["capped"], options["max"]) == (True, passes.KEPT)


def test_a_pass_is_done_whether_it_is_noted_or_not(
    api: FlaskClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def insert_one(self, _: Any) -> None:
            raise AutoReconnect("away")

    register(platform)
    monkeypatch.setattr(platform.store.passes, "_passes", Away())
    submit_job(api)
    assert platform.store.live.counts()["ASSIGNED"] == 1


def test_each_tick_says_when_it_ran_and_what_it_did(
    api: FlaskClient, platform: Platform, tick: Tick
) -> None:
    for name in ("timeouts", "health", "assignment", "retention", "statistics"):
        tick(name)
    ticks = {entry["name"]: entry for entry in system(api)["ticks"]}
    assert set(ticks) == {"timeouts", "health", "assignment", "retention", "statistics"}
    assert ticks["timeouts"]["report"] == {"heldBack": False, "requeued": 0, "ended": 0}
    assert ticks["retention"]["report"] == {
        "jobs": 0,
        "files": 0,
        "workers": 0,
        "more": False,
    }
    assert ticks["assignment"]["report"]["trigger"] == "tick"
    assert ticks["assignment"]["report"]["assigned"] == 0
    assert all(entry["at"] and entry["ms"] >= 0 for entry in ticks.values())
    assert system(api)["schedulerSeenAt"] is None


def test_a_fresh_database_says_how_it_stands(api: FlaskClient) -> None:
    submit_job(api)
    found = system(api)["database"]
    assert found["version"].startswith("6.")
    assert found["primary"] in found["members"]
    (jobs,) = [entry for entry in found["collections"] if entry["name"] == "jobs"]
    assert jobs["documents"] == 1
    assert jobs["indexBytes"] > 0


@pytest.fixture
def dead(platform: Platform) -> str:
    """A dead letter of the queue ``q``."""
    messages = Messages(platform.store.database, "broker")
    messages.publish("q", "no message")
    (claimed,) = messages.claim("q", 1, 10_000)
    messages.bury(claimed.delivery, "is no message")
    return str(claimed.delivery.id)


def test_dead_letters_are_looked_at_requeued_and_dropped(
    api: FlaskClient, platform: Platform, dead: str
) -> None:
    assert system(api)["deadLetters"] == 1
    page = api.get("/api/broker/dead-letters?queue=q&limit=1").get_json()
    assert [letter["id"] for letter in page["deadLetters"]] == [dead]
    assert page["deadLetters"][0]["reason"] == "is no message"
    assert api.get(f"/api/broker/dead-letters?after={page['next']}").get_json()["next"] is None
    requeued = api.post("/api/broker/dead-letters/requeue", json={"ids": [dead]}).get_json()
    assert (requeued["count"], requeued["message"]) == (1, "1 dead letters requeued")
    (queue,) = system(api)["queues"]
    assert (queue["name"], queue["waiting"]) == ("q", 1)
    assert api.post("/api/broker/dead-letters/drop", json={"ids": [dead]}).get_json()["count"] == 0


@pytest.mark.parametrize("action", ["requeue", "drop"])
def test_viewers_look_and_do_not_act(as_role: As, dead: str, action: str) -> None:
    viewer = as_role("viewer")
    assert viewer.get("/api/broker/dead-letters").get_json()["deadLetters"]
    answer = viewer.post(f"/api/broker/dead-letters/{action}", json={"ids": [dead]})
    assert answer.status_code == 403
    assert viewer.get("/api/system").get_json()["deadLetters"] == 1


@pytest.mark.parametrize("ids", [[], "x", [1], ["x" * 65], None])
def test_ids_that_make_no_sense_are_422(api: FlaskClient, ids: Any) -> None:
    answer = api.post("/api/broker/dead-letters/drop", json={"ids": ids})
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["field"].startswith("ids")
