"""Runs the scheduler's ticks by name, as beat sends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from taskyard.context import Platform
from taskyard.documents import camel
from taskyard.scheduler import health, retention, statistics, timeouts
from taskyard.scheduler.assignment import PassReport
from taskyard.scheduler.timeouts import TimeoutsReport
from taskyard.store.locks import TickMark

#: Sends the message that lets ticks go on: their names, until when (epoch ms), and after how many
#: seconds the message expires.
GoOn = Callable[[Sequence[str], int, float], None]


def run_in_turns(
    platform: Platform, names: Sequence[str], *, until: int | None, go_on: GoOn
) -> None:
    """Run these ticks, and have those that have more to do go on with a message of their own.

    So other ticks have their turn in between. It ends when beat sends the next one anyway.
    """
    interval = platform.settings.retention_tick_seconds
    now = round(platform.store.clock.now().timestamp() * 1000)
    until = until or now + round(interval * 1000)
    unfinished = run_all(platform, names)
    if unfinished and now < until:
        go_on(unfinished, until, interval)


def run_all(platform: Platform, names: Sequence[str]) -> list[str]:
    """Run these ticks; return those that have more to do.

    If a tick fails the others still run; then the first error is raised.
    """
    errors, unfinished = [], []
    for name in names:
        try:
            if run(platform, name):
                unfinished.append(name)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return unfinished


def run(platform: Platform, name: str) -> bool:
    """Run one tick, and note what it did; return whether it has more to do.

    Two at once, or one too many, do no harm.
    """
    at, began = platform.store.clock.now(), time.monotonic()
    report = _run(platform, name)
    ms = round((time.monotonic() - began) * 1000, 1)
    facts = {camel(fact): _shown(value) for fact, value in vars(report).items()}
    # One write, at the end: on an idle platform these marks are a good part of all writes.
    platform.store.locks.note_tick(TickMark(name=name, at=at, ms=ms, report=facts))
    return bool(getattr(report, "more", False))


def _run(platform: Platform, name: str) -> object:
    store, settings = platform.store, platform.settings
    match name:
        case "timeouts":
            return _expire(platform)
        case "assignment":
            return _assign(platform)
        case "health":
            return health.tick(store, settings)
        case "retention":
            return retention.tick(store, settings)
        case "statistics":
            return statistics.tick(store, settings)
        case _:
            raise ValueError(f"There is no tick {name!r}")


def _expire(platform: Platform) -> TimeoutsReport:
    """Run the sweep, and have a pass place at once what went back into the queue."""
    report = timeouts.tick(platform.store, platform.settings)
    if report.requeued:
        platform.nudge("expired")
    return report


def _assign(platform: Platform) -> PassReport:
    """Run a pass, unless there is nothing for one to do: then no lock is taken."""
    reserved = any(worker.reserved_for for worker in platform.store.workers.listed())
    if not reserved and not platform.store.live.waiting_shapes():
        return PassReport(trigger="tick")
    report = platform.run_pass("tick")
    if report.asked_again:
        platform.nudge("asked")
    return report


def _shown(value: Any) -> Any:
    """Return a number or a text as it is, and the length of a list."""
    return value if isinstance(value, (bool, int, float, str)) else len(value)
