"""Beat's table and its sleep."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery

from taskyard.scheduler.beat import Scheduler
from taskyard.scheduler.schedule import TICKS, beat_schedule
from taskyard.settings import Settings


def test_it_sleeps_until_a_tick_is_due_and_asks_no_more_than_that() -> None:
    sent: list[str] = []

    class Sending(Scheduler):
        def apply_async(self, entry: Any, **_: Any) -> None:
            sent.append(entry.name)

    app = Celery(broker="memory://", set_as_current=False)
    app.conf.beat_schedule = {"often": {"task": "taskyard.tick", "schedule": 0.05}}
    beat = Sending(app=app)
    asked = 0
    while len(sent) < 5:
        asked += 1
        time.sleep(max(0.0, beat.tick()))  # as Celery's Service does
    app.close()
    # Once to send, once for how long to sleep, and once more for a clock that is a little behind.
    assert asked <= 3 * len(sent)


def test_each_tick_comes_at_its_interval_and_those_of_one_interval_together() -> None:
    settings = Settings(health_tick_seconds=7, assignment_tick_seconds=7)
    table = beat_schedule(settings)
    sent = {name: entry["schedule"] for entry in table.values() for name in entry["args"]}
    assert sent == {name: getattr(settings, f"{name}_tick_seconds") for name in TICKS}
    intervals = [entry["schedule"] for entry in table.values()]
    assert len(intervals) == len(set(intervals))
    for entry in table.values():
        assert entry["options"]["expiration"] == entry["schedule"]
