"""Small helpers that every part's tests share."""

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
    """The one pause between two looks at a condition."""
    time.sleep(0.02)  # waiting for a condition


def free_port() -> int:
    """A port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
