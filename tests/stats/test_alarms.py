"""Each alarm, with what raises it and what does not."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from taskyard.stats.alarms import AlarmKind, Facts, judge
from tests import factories
from tests.factories import NOW

FINE = Facts(
    now=NOW,
    workers=[factories.worker("w1", labels=("gpu",), cpu_count=4)],
    offline_after=timedelta(seconds=30),
    waiting=[factories.queued_job(labels=["gpu"])],
    oldest_queued_at=NOW - timedelta(minutes=59),
    scheduler_seen_at=NOW - timedelta(seconds=14),
    ticks={"health": NOW - timedelta(seconds=14)},
    life_seconds=5,
    tick_seconds={"health": 5},
)


def facts(**changes: Any) -> Facts:
    return dataclasses.replace(FINE, **changes)


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    assert judge(FINE) == []
    assert judge(facts(waiting=[], oldest_queued_at=None)) == []


LATE = NOW - timedelta(seconds=16)


@pytest.mark.parametrize(
    ("changes", "kind", "words", "search"),
    [
        ({"workers": []}, AlarmKind.NO_WORKER, "no worker is online", "status:queued"),
        (
            {"workers": [factories.worker(last_heartbeat=NOW - timedelta(minutes=1))]},
            AlarmKind.NO_WORKER,
            "no worker is online",
            "status:queued",
        ),
        (
            {"workers": [factories.worker()]},
            AlarmKind.NO_LABEL,
            "label gpu",
            "status:queued label:gpu",
        ),
        (
            {"waiting": [factories.queued_job(job_id="job-1", required_cpu=5)]},
            AlarmKind.TOO_LARGE,
            "5 CPUs",
            "id:job-1",
        ),
        ({"scheduler_seen_at": LATE}, AlarmKind.SCHEDULER_SILENT, "16 s ago", None),
        ({"scheduler_seen_at": None}, AlarmKind.SCHEDULER_SILENT, "never", None),
        ({"ticks": {"health": LATE}}, AlarmKind.TICK_SILENT, "health (16 s ago)", None),
        ({"ticks": {}}, AlarmKind.TICK_SILENT, "health (never)", None),
        (
            {"oldest_queued_at": NOW - timedelta(hours=3)},
            AlarmKind.LONG_QUEUE,
            "3 h ago",
            "status:queued wait>1h",
        ),
    ],
)
def test_an_alarm_says_what_is_wrong_and_which_jobs_it_holds_up(
    changes: dict[str, Any], kind: AlarmKind, words: str, search: str | None
) -> None:
    (alarm,) = judge(facts(**changes))
    assert (alarm.kind, alarm.search) == (kind, search)
    assert words in alarm.message


def test_one_missing_label_is_told_once_however_many_shapes_ask_for_it() -> None:
    waiting = [factories.queued_job(labels=["arm"], required_cpu=n) for n in (1, 2, 3)]
    assert len(judge(facts(waiting=waiting))) == 1


def test_a_dead_scheduler_is_not_told_again_as_missing_ticks() -> None:
    kinds = [alarm.kind for alarm in judge(facts(scheduler_seen_at=LATE, ticks={}))]
    assert kinds == [AlarmKind.SCHEDULER_SILENT]
