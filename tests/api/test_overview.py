"""The overview: figures from what is stored, alarms, and errors with their jobs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask.testing import FlaskClient

from taskyard.context import Platform
from taskyard.overview import SPANS, overview
from taskyard.stats.rollup import HOUR, MINUTE, Rollup, floor
from taskyard.store import queries
from tests import factories
from tests.api.agents import HttpAgent, submit_job
from tests.api.conftest import As
from tests.conftest import TestClock

Tick = Callable[[str], None]


@pytest.fixture(autouse=True)
def _no_minute_ends_meanwhile(clock: TestClock) -> None:
    clock.advance((80 - clock.now().second) % 60)


def test_figures_of_real_jobs_and_how_things_stand(
    api: FlaskClient, tick: Tick, platform: Platform
) -> None:
    agent = HttpAgent(api)
    agent.register()
    for code in (0, 1, 1):
        submit_job(api)
        agent.poll()
        agent.submit(code)
    submit_job(api)
    tick("statistics")
    found = api.get("/api/overview?range=15m").get_json()
    total = found["total"]
    assert (total["submitted"], total["completed"], total["failed"]) == (4, 1, 2)
    assert found["failureRate"] == pytest.approx(2 / 3)
    assert found["throughputPerSecond"] > 0
    assert total["wait"]["p50Ms"] > 0
    assert total["run"]["p99Ms"] > 0
    assert found["now"]["jobs"]["QUEUED"] == 1
    assert found["now"]["workers"] == {"IDLE": 1}
    assert found["points"][-1]["queued"] == 1
    assert found["points"][0]["queued"] is None
    (error,) = found["errors"]
    assert (error["message"], error["jobs"]) == ("exit code #", 2)
    listed = api.get("/api/jobs/list", query_string={"q": error["search"]}).get_json()
    assert listed["count"] == 2
    assert error["lastJobId"] == listed["jobs"][0]["jobId"]


def test_alarms_name_what_is_wrong_and_find_the_jobs(
    api: FlaskClient, tick: Tick, clock: TestClock, platform: Platform
) -> None:
    submit_job(api, labels=["gpu"])
    for name in ("timeouts", "health", "assignment", "statistics"):
        tick(name)
    platform.store.locks.note_scheduler(now=clock.now())
    (alarm,) = api.get("/api/overview").get_json()["alarms"]
    assert alarm["kind"] == "no_worker"
    HttpAgent(api).register()
    (alarm,) = api.get("/api/overview").get_json()["alarms"]
    assert alarm["kind"] == "no_label"
    listed = api.get("/api/jobs/list", query_string={"q": alarm["search"]}).get_json()
    assert listed["count"] == 1
    clock.advance(3700)
    kinds = [alarm["kind"] for alarm in api.get("/api/overview").get_json()["alarms"]]
    assert kinds == ["scheduler_silent", "no_worker", "long_queue"]


def test_a_long_queue_is_not_counted_for_each_who_asks(
    platform: Platform, tick: Tick, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = clock.now()
    platform.store.jobs.submit([factories.queued_job(now=now) for _ in range(5)])
    clock.advance(4000)
    tick("statistics")
    monkeypatch.setattr(queries, "COUNTED", 3)
    monkeypatch.setattr(platform.store.live, "oldest_queued", None)
    assert "long_queue" in [alarm.kind for alarm in overview(platform, SPANS["1h"]).alarms]


def test_a_long_wait_that_is_over_is_no_alarm_whatever_range_is_shown(
    api: FlaskClient, platform: Platform, clock: TestClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, now = platform.store, clock.now()
    waited = Rollup(at=floor(now, HOUR), samples=60, queued=20_000, oldest_wait_ms=3 * 3_600_000)
    store.stats.save(HOUR, [waited])
    store.stats.sample(floor(now, MINUTE), sums={}, most={"queued": 5, "oldestWaitMs": 1000})
    store.jobs.submit([factories.queued_job(now=now) for _ in range(5)])
    monkeypatch.setattr(queries, "COUNTED", 3)
    for shown in ("15m", "7d"):
        found = api.get(f"/api/overview?range={shown}").get_json()
        assert "long_queue" not in [alarm["kind"] for alarm in found["alarms"]], shown


def test_a_fresh_platform_has_an_overview_without_figures(api: FlaskClient) -> None:
    found = api.get("/api/overview?range=7d").get_json()
    assert found["failureRate"] is None
    assert found["total"]["wait"] is None
    assert found["errors"] == []


def test_an_unknown_range_is_422(api: FlaskClient) -> None:
    answer = api.get("/api/overview?range=1y")
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["field"] == "range"


@pytest.mark.parametrize(("role", "status"), [("viewer", 200), ("agent", 403)])
def test_the_overview_is_for_viewers_and_operators(as_role: As, role: str, status: int) -> None:
    assert as_role(role).get("/api/overview").status_code == status
