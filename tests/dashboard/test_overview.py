"""The overview and the system page as a browser gets them."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from flask.testing import FlaskClient

from taskyard.broker.inspection import Inspection
from taskyard.context import Platform
from taskyard.dashboard import charts
from taskyard.jobs.states import JobStatus
from taskyard.overview import SPANS
from taskyard.stats.rollup import Rollup
from tests import factories
from tests.api.test_system import dead as dead
from tests.dashboard.test_pages import OWN_SITE, browser
from tests.factories import stored


@pytest.fixture
def operator(platform: Platform) -> FlaskClient:
    return browser(platform, "operator")


def test_a_step_of_which_nothing_is_known_is_a_gap_and_not_nought() -> None:
    minute = timedelta(minutes=1)
    points = [Rollup(at=factories.NOW), Rollup(at=factories.NOW + minute, samples=1)]
    counted_at = factories.NOW + 2 * minute
    drawn = {chart.title: chart for chart in charts.of(points, counted_at=counted_at)}
    assert drawn["Queue"].lines[0].values == [None, 0]
    assert [line.values for line in drawn["Wait"].lines] == [[None, None]] * 3
    assert drawn["CPUs in use"].lines[0].values == [None, None]
    assert drawn["Ended"].lines[1].values == [0, 0]


def test_a_step_that_was_not_over_when_it_was_counted_is_no_fall() -> None:
    minute = timedelta(minutes=1)
    points = [
        Rollup(at=factories.NOW + n * minute, completed=60, submitted=60, samples=1, queued=4)
        for n in range(3)
    ]
    counted_at = factories.NOW + 2.4 * minute
    drawn = {chart.title: chart for chart in charts.of(points, counted_at=counted_at)}
    assert drawn["Ended"].lines[0].values == [60, 60, None]
    assert [line.values for line in drawn["Queue"].lines] == [[4, 4, 4], [60, 60, None]]
    assert charts.of(points, counted_at=None)[0].lines[0].values == [None] * 3


@pytest.mark.parametrize("span", SPANS)
def test_figures_alarms_and_errors_lead_to_their_jobs(
    operator: FlaskClient, platform: Platform, tick: Callable[[str], None], span: str
) -> None:
    ago = platform.store.clock.now() - SPANS[span].shown - timedelta(minutes=3)
    for _ in range(2):
        job = factories.job_in(JobStatus.FAILED, now=ago)
        platform.store.jobs.submit([job])
    stored(platform, JobStatus.QUEUED)
    tick("statistics")
    text = operator.get(f"/overview?range={span}").text
    assert "No worker is online." in text
    assert "/?q=status:queued" in text
    assert "exit code #" in text
    link = re.search(r'href="(/\?q=status:failed[^"]*)"', text)
    assert link
    assert job.job_id in operator.get(html.unescape(link[1])).text
    series = re.search(r'data-series="([^"]*)"', text)
    assert series
    read = json.loads(html.unescape(series[1]))
    assert sum(count or 0 for count in read["charts"][0]["lines"][1]["values"]) == 2
    assert len(read["at"]) == len(read["charts"][0]["lines"][0]["values"])


def test_the_system_shows_ticks_and_passes(
    operator: FlaskClient, platform: Platform, tick: Callable[[str], None]
) -> None:
    stored(platform, JobStatus.QUEUED)
    for name in ("health", "assignment"):
        tick(name)
    text = operator.get("/system").text
    assert re.search(r'<th scope="row">health</th>.*ago', text)
    assert "MongoDB" in text


@pytest.mark.parametrize("action", ["requeue", "drop"])
def test_dead_letters_are_looked_at_and_dealt_with(
    operator: FlaskClient, platform: Platform, dead: str, action: str
) -> None:
    assert dead in operator.get("/system").text
    form = {"action": action, "letter": [dead]}
    answer = operator.post("/system/dead-letters", data=form, headers=OWN_SITE)
    assert answer.status_code == 303
    assert Inspection(platform.store.database).count_dead() == 0


def test_a_viewer_looks_at_dead_letters_and_touches_none(platform: Platform, dead: str) -> None:
    viewer = browser(platform, "viewer")
    assert "Drop for good" not in viewer.get("/system").text
    form = {"action": "drop", "letter": [dead]}
    assert viewer.post("/system/dead-letters", data=form, headers=OWN_SITE).status_code == 403
    assert Inspection(platform.store.database).count_dead() == 1


@pytest.mark.parametrize(
    ("form", "status"), [({"action": "drop"}, 422), ({"action": "eat", "letter": "x"}, 404)]
)
def test_a_made_up_act_on_letters_is_refused(
    operator: FlaskClient, form: dict[str, str], status: int
) -> None:
    answer = operator.post("/system/dead-letters", data=form, headers=OWN_SITE)
    assert answer.status_code == status
