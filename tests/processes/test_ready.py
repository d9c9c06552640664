"""``/readyz`` of the whole platform while one of its processes is stopped."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from tests.helpers import eventually
from tests.processes.conftest import Up

#: Short ticks, so that a process that misses three of them is soon reported.
TICKS = {f"TASKYARD_{name}_TICK_SECONDS": "1" for name in ("TIMEOUTS", "HEALTH", "ASSIGNMENT")}


def failing(up: Up) -> dict[str, str]:
    """Return the failing checks with their details."""
    try:
        with urllib.request.urlopen(f"{up.url}/readyz", timeout=30) as answer:
            status, body = answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        status, body = refused.code, json.load(refused)
    found = {name: check["detail"] for name, check in body["checks"].items() if not check["ok"]}
    assert status == (503 if found else 200)
    return found


@contextmanager
def stopped(up: Up, name: str) -> Iterator[None]:
    """Stop child processes (SIGSTOP), which the supervisor does not notice."""
    children = [child for child in up.everything()[1:] if name in " ".join(child.cmdline())]
    assert children
    _signal(children, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(children, signal.SIGCONT)


def _signal(children: list[psutil.Process], number: int) -> None:
    for child in children:
        child.send_signal(number)


def all_failing(up: Up, names: set[str]) -> dict[str, str]:
    """Wait until exactly these checks fail, and return them."""

    def looked() -> dict[str, str] | None:
        found = failing(up)
        return found if set(found) == names else None

    return eventually(looked, 30)


def test_readyz_tells_a_dead_scheduler_from_a_dead_beat_and_comes_back(
    start_up: Callable[..., Up],
) -> None:
    up = start_up("--ephemeral", **TICKS).await_ready()
    eventually(lambda: not failing(up), 30)
    ticks = {"tick.timeouts", "tick.health", "tick.assignment"}
    with stopped(up, "scheduler@"):
        found = all_failing(up, {"scheduler", *ticks})
        assert all("no scheduler is alive" in words for words in found.values())
    eventually(lambda: not failing(up), 30)
    with stopped(up, "celery_app beat"):
        found = all_failing(up, ticks)
        assert all("beat sends no ticks" in words for words in found.values())
    eventually(lambda: not failing(up), 30)
