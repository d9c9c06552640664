"""The signals that end ``up``: heeded while it runs, ignored while it stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(Exception):
    """SIGINT, SIGTERM or SIGHUP came."""


@contextmanager
def stoppable() -> Iterator[threading.Event]:
    """Raise Stopped on SIGINT, SIGTERM and SIGHUP, wherever the start-up is, and set the event. A
    SIGHUP that is ignored stays so: somebody started us with ``nohup``.
    """
    asked = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        raise Stopped

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield asked
    finally:
        _restore(before)


def undisturbed(act: Callable[[], None]) -> None:
    """Call ``act`` while the signals that would interrupt it are ignored."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        act()
    finally:
        _restore(before)


def _restore(before: Mapping[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
