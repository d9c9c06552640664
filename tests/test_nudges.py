"""Requested passes run soon, on one thread; one pass serves all requests made meanwhile."""

from __future__ import annotations

import threading

import pytest

from taskyard.nudges import Nudges, pause_after
from tests.helpers import eventually


def test_many_that_ask_at_once_get_one() -> None:
    nudges, done = Nudges(), list[str]()
    for _ in range(50):
        nudges(lambda: done.append(threading.current_thread().name))
    eventually(lambda: done)
    assert len(done) < 5
    assert set(done) == {"nudges"}


def test_one_that_fails_is_told_of_and_the_next_is_done() -> None:
    nudges, done = Nudges(), threading.Event()
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise RuntimeError("a defect")

    nudges(fail)
    assert failed.wait(5)
    nudges(done.set)
    assert done.wait(5)


@pytest.mark.parametrize(("took_seconds", "pause"), [(0, 0.02), (0.1, 1), (5, 2)])
def test_a_tenth_of_the_time_is_spent_on_passes_and_a_pause_is_two_seconds_at_most(
    took_seconds: float, pause: float
) -> None:
    """The pause is bounded, because a long pass may only have waited for MongoDB."""
    assert pause_after(took_seconds) == pytest.approx(pause)
