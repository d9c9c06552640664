"""Beat's schedule, and how long it sleeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery
from celery.schedules import crontab

from taskyard.scheduler.beat import Scheduler
from taskyard.scheduler.schedule import TICKS, beat_schedule
from taskyard.settings import Settings


class Sending(Scheduler):
    """A beat scheduler that records the names of tasks instead of sending them."""

    def setup_schedule(self) -> None:
        self.sent: list[str] = []
        super().setup_schedule()

    def apply_async(self, entry: Any, **_: Any) -> None:
        self.sent.append(entry.name)


@pytest.fixture
def app() -> Iterator[Celery]:
    made = Celery(broker="memory://", set_as_current=False)
    yield made
    made.close()


def test_it_sleeps_until_a_tick_is_due_and_asks_no_more_than_that(app: Celery) -> None:
    app.conf.beat_schedule = {"often": {"task": "taskyard.tick", "schedule": 0.05}}
    beat = Sending(app=app)
    asked = 0
    while len(beat.sent) < 5:
        asked += 1
        time.sleep(max(0.0, beat.tick()))  # as Celery's Service does
    # One call to send, one for the time to sleep, and one more if the clock is a little behind.
    assert asked <= 3 * len(beat.sent)


@pytest.mark.parametrize("step_seconds", [-86_400, -3600, -3, -0.5, 3, 86_400])
def test_a_wall_clock_that_is_set_holds_no_tick_back(
    app: Celery, monkeypatch: pytest.MonkeyPatch, step_seconds: float
) -> None:
    wall, elapsed = [datetime(2026, 11, 24, 3, 59, 50, tzinfo=UTC)], [0.0]
    app.now = lambda: wall[0]
    monkeypatch.setattr("taskyard.scheduler.beat.monotonic", lambda: elapsed[0])
    intervals = {"often": 2.0, "rarely": 5.0}
    app.conf.beat_schedule = {
        "cleanup": {"task": "celery.backend_cleanup", "schedule": crontab("0", "4", "*")},
        **{name: {"task": "t", "schedule": seconds} for name, seconds in intervals.items()},
    }
    beat = Sending(app=app)
    sent: dict[str, list[float]] = {"often": [0.0], "rarely": [0.0], "cleanup": []}
    while elapsed[0] < 40:
        slept = beat.tick()
        assert slept <= 2, "or a step while it looks would have it sleep for long"
        while beat.sent:
            sent[beat.sent.pop()].append(elapsed[0])
        if elapsed[0] < 20 <= elapsed[0] + slept:
            wall[0] += timedelta(seconds=step_seconds)
        wall[0] += timedelta(seconds=slept)
        elapsed[0] += slept
    for name, seconds in intervals.items():
        gaps = [after - before for before, after in pairwise([*sent[name], elapsed[0]])]
        assert max(gaps) < seconds + 0.6, name


def test_each_tick_comes_at_its_interval_and_those_of_one_interval_together() -> None:
    settings = Settings(health_tick_seconds=7, assignment_tick_seconds=7)
    table = beat_schedule(settings)
    sent = {name: entry["schedule"] for entry in table.values() for name in entry["args"]}
    assert sent == {name: getattr(settings, f"{name}_tick_seconds") for name in TICKS}
    intervals = [entry["schedule"] for entry in table.values()]
    assert len(intervals) == len(set(intervals))
    for entry in table.values():
        assert entry["options"]["expiration"] == entry["schedule"]
