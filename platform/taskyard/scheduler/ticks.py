"""The scheduler's ticks by name, as beat sends them."""

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

#: Sends the message that has ticks go on: their names, until when (epoch ms), and for how many
#: seconds the message is worth anything.
GoOn = Callable[[Sequence[str], int, float], None]


def run_in_turns(
    platform: Platform, names: Sequence[str], *, until: int | None, go_on: GoOn
) -> None:
    """Run these ticks. What has more to do goes on in a message of its own, so that other ticks
    have their turn in between, until beat sends the next one anyway.
    """
    interval = platform.settings.retention_tick_seconds
    now = round(platform.store.clock.now().timestamp() * 1000)
    until = until or now + round(interval * 1000)
    unfinished = run_all(platform, names)
    if unfinished and now < until:
        go_on(unfinished, until, interval)


def run_all(platform: Platform, names: Sequence[str]) -> list[str]:
    """Run these ticks; returns those that have more to do. One that fails does not keep the others
    from their turn. Raises its error, the first of several.
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
    """Run one tick, and note what it did; whether it has more to do. Two at once, or one too many,
    change nothing.
    """
    at, began = platform.store.clock.now(), time.monotonic()
    report = _run(platform, name)
    ms = round((time.monotonic() - began) * 1000, 1)
    facts = {camel(fact): _shown(value) for fact, value in vars(report).items()}
    # One write, at the end: idle, such marks are a good part of all that is written.
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
    """What the sweep put back into the queue is placed at once."""
    report = timeouts.tick(platform.store, platform.settings)
    if report.requeued:
        platform.nudge("expired")
    return report


def _assign(platform: Platform) -> PassReport:
    """A pass, unless there is nothing for one: no lock is taken for that."""
    reserved = any(worker.reserved_for for worker in platform.store.workers.listed())
    if not reserved and not platform.store.live.waiting_shapes():
        return PassReport(trigger="tick")
    report = platform.run_pass("tick")
    if report.asked_again:
        platform.nudge("asked")
    return report


def _shown(value: Any) -> Any:
    """A number or a word as it is, of a list its length."""
    return value if isinstance(value, (bool, int, float, str)) else len(value)
