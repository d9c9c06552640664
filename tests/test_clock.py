"""The database's clock as a process carries it, while the database comes and goes."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from taskyard.clock import Clock

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


class Server:
    """A server whose clock can be read, or not."""

    def __init__(self) -> None:
        self.time: datetime | None = NOON
        self.asked = 0

    def __call__(self) -> datetime:
        self.asked += 1
        if self.time is None:
            raise ConnectionError("no primary")
        return self.time


def test_a_clock_that_was_never_measured_says_that_it_cannot() -> None:
    server = Server()
    server.time = None
    clock = Clock(server)
    for _ in range(2):
        with pytest.raises(ConnectionError):
            clock.now()
    server.time = NOON
    assert clock.now() - NOON < timedelta(seconds=5)


def test_with_no_primary_it_asks_now_and_then_and_goes_on() -> None:
    server, elapsed = Server(), [0.0]
    clock = Clock(server, lambda: elapsed[0])
    clock.now()
    server.time = None
    clock.forget()
    for _ in range(100):
        assert clock.now() == NOON + timedelta(seconds=elapsed[0])
    assert server.asked == 2, "one try, which may take its time, and none for a while"
    elapsed[0] += 1
    server.time = NOON + timedelta(minutes=5)
    assert clock.now() == server.time, "the new primary's"


def test_nobody_waits_for_the_thread_that_measures() -> None:
    measuring, answered = threading.Event(), threading.Event()
    first = [True]

    def slow() -> datetime:
        if first.pop() if first else False:
            return NOON
        measuring.set()
        answered.wait(10)
        return NOON

    clock = Clock(slow)
    clock.now()
    clock.forget()
    thread = threading.Thread(target=clock.now)
    thread.start()
    assert measuring.wait(10)
    assert clock.now() >= NOON
    assert thread.is_alive()
    answered.set()
    thread.join()
