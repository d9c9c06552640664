"""A process's copy of the database's clock, while the database comes and goes."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from taskyard.clock import RESYNC_SECONDS, Clock

NOON = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)


class Server:
    """A server's clock; reading it fails while ``time`` is None."""

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


@pytest.mark.parametrize(
    ("step_seconds", "seen_seconds"), [(0, 0), (0.01, 0), (-0.5, 0), (-3, -3), (3, 3), (3600, 3600)]
)
def test_what_is_heard_of_the_server_corrects_the_clock_if_it_cannot_be_right(
    step_seconds: float, seen_seconds: float
) -> None:
    """The answer took a second: the server may have read its clock at any instant of it."""
    server, elapsed = Server(), [0.0]
    clock = Clock(server, lambda: elapsed[0])
    clock.now()
    elapsed[0] += 4
    clock.heard(NOON + timedelta(seconds=4 + step_seconds), 1.0)
    seen = clock.now() - NOON - timedelta(seconds=4)
    half = 0.5 if seen_seconds else 0
    assert seen == timedelta(seconds=seen_seconds + half)
    elapsed[0] += 4
    clock.now()
    assert server.asked == 1, "what was heard spares a question"


def test_after_a_change_of_primary_it_is_asked_and_no_hearsay_is_taken() -> None:
    server = Server()
    clock = Clock(server)
    clock.now()
    server.time = NOON + timedelta(minutes=5)
    clock.forget()
    clock.heard(NOON, 0.0)
    assert clock.now() >= server.time


def test_a_step_of_the_servers_clock_is_seen_soon() -> None:
    server, elapsed = Server(), [0.0]
    clock = Clock(server, lambda: elapsed[0])
    clock.now()
    server.time = NOON + timedelta(hours=1)
    elapsed[0] += RESYNC_SECONDS
    assert clock.now() == server.time


def test_the_time_for_which_the_host_slept_is_counted_where_the_system_counts_it() -> None:
    if hasattr(time, "CLOCK_BOOTTIME"):
        assert abs(Clock(Server())._monotonic() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 5


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
