"""Rollups: statistics of many jobs, without a database."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from taskyard.stats import common_errors, histogram
from taskyard.stats.common_errors import SeenError
from taskyard.stats.rollup import MINUTE, TEN_MINUTES, Rollup, floor, merge, series
from tests.factories import NOW


def counted(durations: list[float]) -> dict[int, int]:
    buckets: dict[int, int] = {}
    for milliseconds in durations:
        buckets[histogram.bucket(milliseconds)] = buckets.get(histogram.bucket(milliseconds), 0) + 1
    return buckets


def test_percentiles_are_at_most_a_tenth_off() -> None:
    chosen = random.Random(7)
    durations = sorted(chosen.lognormvariate(6, 2) for _ in range(10_000))
    found = histogram.percentiles(counted(durations))
    assert found is not None
    assert found.p50_ms == pytest.approx(durations[5_000], rel=0.1)
    assert found.p95_ms == pytest.approx(durations[9_500], rel=0.1)
    assert found.p99_ms == pytest.approx(durations[9_900], rel=0.1)


def test_percentiles_of_a_whole_follow_from_its_parts() -> None:
    first, second = [5.0] * 98, [5000.0] * 102
    merged = histogram.merged([counted(first), counted(second)])
    assert histogram.percentiles(merged) == histogram.percentiles(counted(first + second))


@pytest.mark.parametrize("empty", [{}, {3: 0}])
def test_of_nothing_there_are_no_percentiles(empty: dict[int, int]) -> None:
    assert histogram.percentiles(empty) is None


def test_a_whole_adds_up_and_keeps_the_most_that_was_seen() -> None:
    one = Rollup(at=NOW, completed=2, failed=1, wait={3: 1}, samples=2, queued=5, oldest_wait_ms=9)
    two = Rollup(at=NOW + MINUTE, completed=1, wait={3: 1, 4: 2}, samples=1, queued=7)
    busy = Rollup(at=NOW + MINUTE, used_cpu=3, total_cpu=4)
    whole = merge(NOW, [one, two, busy])
    assert (whole.completed, whole.failed, whole.ended) == (3, 1, 4)
    assert dict(whole.wait) == {3: 2, 4: 2}
    assert (whole.queued, whole.oldest_wait_ms, whole.samples) == (7, 9, 3)
    assert whole.utilisation == 0.75
    assert one.utilisation is None


def test_a_series_has_equal_steps_and_empty_ones_where_nothing_is_known() -> None:
    minutes = [Rollup(at=NOW + n * MINUTE, completed=1) for n in (0, 1, 25)]
    steps = series(
        minutes, begin=NOW + MINUTE, end=NOW + timedelta(minutes=30, seconds=1), step=TEN_MINUTES
    )
    assert [(step.at - NOW) / MINUTE for step in steps] == [0, 10, 20, 30]
    assert [step.completed for step in steps] == [2, 0, 1, 0]


def test_spans_begin_at_whole_steps() -> None:
    assert floor(NOW + timedelta(minutes=19, seconds=59), TEN_MINUTES) == NOW + TEN_MINUTES


def test_errors_that_differ_in_numbers_alone_are_one() -> None:
    seen = [
        SeenError(message="exit code 1", jobs=3, last_job_id="a"),
        SeenError(message='no "file"', jobs=2, last_job_id="b"),
        SeenError(message="exit code 137", jobs=2, last_job_id="c"),
    ]
    first, second = common_errors.group(seen, limit=9)
    assert (first.message, first.jobs, first.last_job_id) == ("exit code #", 5, "a")
    assert first.search == 'status:failed error:"exit code #"'
    assert second.search == r'status:failed error:"no \"file\""'
    assert len(common_errors.group(seen, limit=1)) == 1
