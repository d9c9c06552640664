"""Passes that are asked for run soon, on one thread, one for all that ask at once."""

from __future__ import annotations

import threading

from taskyard.nudges import Nudges
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
