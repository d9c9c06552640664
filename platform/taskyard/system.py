"""The state of scheduler, broker and database, and what an operator does with dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskyard import events
from taskyard.broker.inspection import Inspection
from taskyard.context import Platform
from taskyard.store import database


def state(platform: Platform, *, passes: int) -> dict[str, Any]:
    """Ticks and the last passes with what they did, the broker's queues, the database."""
    store, broker = platform.store, inspection(platform)
    return {
        "scheduler_seen_at": store.locks.scheduler_seen_at(),
        "ticks": store.locks.tick_marks(),
        "passes": store.passes.last(passes),
        "queues": broker.queues(),
        "dead_letters": broker.count_dead(),
        "database": database.state(store.client, store.database),
    }


def inspection(platform: Platform) -> Inspection:
    """A view of the broker's messages, which are in the platform's database."""
    return Inspection(platform.store.database)


def requeue(platform: Platform, ids: Sequence[str], *, by: str) -> int:
    """Put dead letters back into their queues; returns how many."""
    return _handled("requeued", inspection(platform).requeue(ids), by)


def drop(platform: Platform, ids: Sequence[str], *, by: str) -> int:
    """Delete dead letters for good; returns how many."""
    return _handled("dropped", inspection(platform).drop(ids), by)


def _handled(done: str, count: int, by: str) -> int:
    events.emit("broker.dead_letters_handled", done=done, count=count, by=by)
    return count
