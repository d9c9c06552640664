"""Health and readiness."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pymongo import MongoClient, WriteConcern

from taskyard.api.app import create_app
from taskyard.context import Platform
from taskyard.embedded import EmbeddedServer
from taskyard.settings import Settings
from taskyard.store import client as store_client
from tests.conftest import TestClock
from tests.helpers import eventually
from tests.replica_set import ReplicaSet


def test_healthz_answers_without_a_token(anonymous: FlaskClient) -> None:
    assert anonymous.get("/healthz").get_json()["status"] == "ok"


TICKS = ("timeouts", "health", "assignment")


@pytest.fixture
def show_life(platform: Platform, clock: TestClock) -> Callable[[], None]:
    """Return a function that notes a scheduler as alive, as its bootstep does."""

    def show() -> None:
        platform.store.locks.note_scheduler(now=clock.now())

    return show


@pytest.fixture
def working(tick: Callable[[str], None], show_life: Callable[[], None]) -> None:
    """A platform whose parts have all just shown that they are alive."""
    show_life()
    for name in TICKS:
        tick(name)


def failing(client: FlaskClient) -> dict[str, str]:
    """Return the checks that fail, with their details."""
    answer = client.get("/readyz")
    found = {n: c["detail"] for n, c in answer.get_json()["checks"].items() if not c["ok"]}
    assert answer.status_code == (503 if found else 200)
    assert answer.get_json()["status"] == ("failing" if found else "ok")
    return found


@pytest.mark.usefixtures("working")
def test_readyz_is_200_while_every_part_is_heard_of(anonymous: FlaskClient) -> None:
    assert failing(anonymous) == {}


def test_before_anything_ran_readyz_says_so(anonymous: FlaskClient) -> None:
    assert failing(anonymous) == {
        "scheduler": "no scheduler is alive: last seen never",
        **{f"tick.{name}": "no scheduler is alive: ran never" for name in TICKS},
    }


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize("late", TICKS)
def test_a_tick_that_did_not_run_for_three_intervals_fails(
    anonymous: FlaskClient,
    platform: Platform,
    tick: Callable[[str], None],
    show_life: Callable[[], None],
    clock: TestClock,
    late: str,
) -> None:
    interval = getattr(platform.settings, f"{late}_tick_seconds")
    for missed, expected in ((2, []), (4, [f"tick.{late}"])):
        clock.advance(2 * interval)
        show_life()
        for name in set(TICKS) - {late}:
            tick(name)
        assert list(failing(anonymous)) == expected, missed
    assert (
        "beat sends no ticks, or the scheduler is busy: ran" in failing(anonymous)[f"tick.{late}"]
    )


@pytest.mark.usefixtures("working")
def test_no_scheduler_is_told_from_no_beat(
    anonymous: FlaskClient, show_life: Callable[[], None], clock: TestClock
) -> None:
    clock.advance(60)
    assert set(failing(anonymous)) == {"scheduler", *(f"tick.{name}" for name in TICKS)}
    assert all("no scheduler is alive" in words for words in failing(anonymous).values())
    show_life()
    assert set(failing(anonymous)) == {f"tick.{name}" for name in TICKS}
    assert all("beat sends no ticks" in words for words in failing(anonymous).values())


def test_what_was_heard_of_while_the_clock_was_ahead_is_not_taken_for_alive(
    anonymous: FlaskClient,
    tick: Callable[[str], None],
    show_life: Callable[[], None],
    clock: TestClock,
) -> None:
    day = 24 * 3600
    for step in (day, -day):
        clock.advance(step)
        show_life()
        for name in TICKS:
            tick(name)
        assert failing(anonymous) == {}
    clock.advance(60)
    assert set(failing(anonymous)) == {"scheduler", *(f"tick.{name}" for name in TICKS)}


@pytest.mark.usefixtures("working")
def test_a_scheduler_that_was_silent_for_three_health_ticks_is_down_though_ticks_ran(
    anonymous: FlaskClient, tick: Callable[[str], None], clock: TestClock
) -> None:
    clock.advance(16)
    for name in TICKS:
        tick(name)
    assert list(failing(anonymous)) == ["scheduler"]


@pytest.mark.usefixtures("working")
def test_no_agent_is_no_fault(anonymous: FlaskClient, platform: Platform) -> None:
    facts = {"kind": "http", "hostname": "h"}
    long_ago = platform.store.clock.now() - timedelta(hours=1)
    platform.store.workers.register("w1", facts, now=long_ago)
    checks = anonymous.get("/readyz").get_json()["checks"]
    assert checks["agents"] == {"ok": True, "detail": "0 of 1 online"}


@pytest.mark.parametrize("direct", ["false", "true"])
def test_a_member_that_only_reads_is_not_enough(tmp_path: Path, direct: str) -> None:
    """The member answers but takes no writes: the set has no primary."""
    with ReplicaSet(tmp_path, size=1) as members:
        uri = f"{members.uri}&directConnection={direct}"
        settings = Settings(mongodb_uri=uri, database="health")
        with closing(store_client.connect(settings)) as store:
            platform = Platform(settings=settings, store=store, announce=lambda _: None)
            client = create_app(platform).test_client()
            assert "mongodb" not in failing(client)
            members.step_down()
            assert failing(client) == {"mongodb": "no primary answers"}
            eventually(lambda: "mongodb" not in failing(client), 60)


def test_a_primary_whose_writes_no_majority_has_is_not_enough(tmp_path: Path) -> None:
    """It stays primary where an arbiter votes for it, and then every submit is a 503."""
    with ReplicaSet(tmp_path, size=2) as members, members.client() as writing:
        settings = Settings(mongodb_uri=members.uri, database="health")
        with closing(store_client.connect(settings)) as store:
            platform = Platform(settings=settings, store=store, announce=lambda _: None)
            client = create_app(platform).test_client()
            eventually(lambda: "mongodb" not in failing(client), 60)
            unconfirmed = writing["health"].get_collection("any", write_concern=WriteConcern(w=1))
            members.hold_back()
            found = eventually(
                lambda: unconfirmed.insert_one({}) and failing(client).get("mongodb"), 60
            )
            assert found == "a majority of the members does not confirm writes"
            members.hold_back(False)
            eventually(lambda: "mongodb" not in failing(client), 60)


@pytest.mark.usefixtures("working")
def test_the_first_write_after_a_pause_is_no_fault(
    platform: Platform, api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some milliseconds that write is ahead of the majority's by the length of the pause."""
    hello = platform.store.client.admin.command("hello")
    hello["lastWrite"]["majorityWriteDate"] -= timedelta(hours=1)
    monkeypatch.setattr(type(platform.store.client.admin), "command", lambda *_: hello)
    assert "mongodb" not in failing(api)


def test_a_database_that_lets_its_user_read_no_more_is_not_ready(mongod: EmbeddedServer) -> None:
    with closing(MongoClient[dict[str, Any]](mongod.uri)) as owner:
        users = owner["health"]
        users.command("createUser", "web", pwd="secret", roles=["readWrite"])
        try:
            uri = re.sub("//[^@]+@", "//web:secret@", mongod.uri)
            uri = uri.replace("authSource=admin", "authSource=health")
            settings = Settings(mongodb_uri=uri, database="health")
            with closing(store_client.connect(settings)) as store:
                platform = Platform(settings=settings, store=store, announce=lambda _: None)
                client = create_app(platform).test_client()
                assert "mongodb" not in failing(client)
                users.command("updateUser", "web", roles=[])
                assert failing(client) == {"mongodb": "OperationFailure"}
        finally:
            users.command("dropUser", "web")
