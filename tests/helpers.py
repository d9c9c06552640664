"""Small helpers for the tests of all packages."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(check: Callable[[], T | None], timeout_seconds: float = 10) -> T:
    """Return the first truthy value of ``check``; fail when none comes in time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{check} stayed {value!r} for {timeout_seconds} s")
        waiting_step()


def waiting_step() -> None:
    """Pause between two checks of a condition."""
    time.sleep(0.02)  # waiting for a condition


def free_port() -> int:
    """Return a loopback port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
