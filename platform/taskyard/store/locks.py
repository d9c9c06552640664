"""The lock of the pass with its flag, and the marks of ticks and schedulers. They keep work from
being done twice; no guarantee depends on them, since every write that follows has its own guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo import ReturnDocument, WriteConcern
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from taskyard.clock import SET_BACK_MS

_PASS = {"_id": "pass"}
_SCHEDULER = {"_id": "alive.scheduler"}

#: The end of a lock that was given back: it is free for every caller, however old its ``now``.
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)

_IS_AHEAD = {"$gt": ["$at", {"$add": ["$$NOW", SET_BACK_MS]}]}

#: How often ``acquire`` tries. Whoever took the lock meanwhile began after our request, so its
#: pass covers our request.
_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class TickMark:
    """When a tick began last, how long it took and what it did."""

    name: str
    at: datetime
    ms: float | None
    report: Mapping[str, Any]


class LockStore:
    """The pass lock, tick marks and signs of life."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._locks = database["locks"].with_options(write_concern=WriteConcern(w=1))

    def acquire(self, owner: str, *, now: datetime, hold: timedelta) -> bool:
        """Take the lock and return True, or raise its flag for the holder to see.

        A lock that is given back between the two steps is tried again: nobody would see its flag.
        A lock that ends later than any holder's could was taken before the server's clock was set
        back, and is free.
        """
        longest = now + 2 * hold
        free = {**_PASS, "$or": [{"until": {"$lt": now}}, {"until": {"$gt": longest}}]}
        held = {**_PASS, "until": {"$gte": now, "$lte": longest}}
        taken = {"$set": {"owner": owner, "until": now + hold, "again": False}}
        for _ in range(_TRIES):
            try:
                self._locks.update_one(free, taken, upsert=True)
                return True
            except DuplicateKeyError:
                if self._locks.update_one(held, {"$set": {"again": True}}).matched_count:
                    return False
        return False

    def clear_flag(self, owner: str) -> None:
        """Clear the flag. Do so before the reads, never after: a later request raises it anew."""
        self._locks.update_one({**_PASS, "owner": owner}, {"$set": {"again": False}})

    def release(self, owner: str) -> bool:
        """Give the lock back; False when its flag is up and the holder must do one more pass."""
        mine = {**_PASS, "owner": owner}
        ended = {"$set": {"until": _LONG_AGO}}
        if self._locks.update_one({**mine, "again": False}, ended).matched_count:
            return True
        # The lock may have run out and be somebody else's by now: then we are done as well.
        return self._locks.find_one(mine) is None

    def give_up(self, owner: str) -> None:
        """Give the lock back whatever its flag says, because its holder cannot go on."""
        self._locks.update_one({**_PASS, "owner": owner}, {"$set": {"until": _LONG_AGO}})

    def note_tick(self, mark: TickMark) -> None:
        """Note that a tick ran to its end."""
        did = {"ms": mark.ms, "report": {"$literal": mark.report}}
        noted = [{"$set": {"at": _moved_to(mark.at), **did}}]
        self._locks.update_one({"_id": f"tick.{mark.name}"}, noted, upsert=True)

    def ticks(self) -> dict[str, datetime]:
        """When each tick ran last."""
        return {mark.name: mark.at for mark in self.tick_marks()}

    def tick_marks(self) -> list[TickMark]:
        """Each tick's last run and what it did, by name."""
        marks = self._locks.find({"_id": {"$regex": "^tick\\."}}).sort("_id", 1)
        return [
            TickMark(
                name=mark["_id"].removeprefix("tick."),
                at=mark["at"],
                ms=mark.get("ms"),
                report=mark.get("report", {}),
            )
            for mark in marks
        ]

    def note_scheduler(self, *, now: datetime) -> None:
        """Note that a scheduler is alive; all schedulers share one mark."""
        lives = [{"$set": {"at": _moved_to(now)}}]
        self._locks.update_one(_SCHEDULER, lives, upsert=True)

    def scheduler_seen_at(self) -> datetime | None:
        """When a scheduler was last heard of."""
        mark = self._locks.find_one(_SCHEDULER)
        return mark["at"] if mark else None

    def note_sweep(self, *, now: datetime, gap: timedelta, hold: timedelta) -> datetime | None:
        """Note that an expiry sweep begins; returns until when sweeps are held back.

        A sweep that begins more than ``gap`` after the last holds back all sweeps for ``hold``.
        Note and hold are one write: a process that dies, is paused or races with another cannot
        leave one without the other, and a failover rolls back both or neither. A hold from before
        the server's clock was set back counts from now on.
        """
        until = now + hold
        passed_ms = {"$subtract": [now, "$at"]}
        outage = {"$gt": [passed_ms, round(gap.total_seconds() * 1000)]}
        cases = [
            {"case": {"$and": [_IS_AHEAD, {"$gt": ["$heldUntil", until]}]}, "then": until},
            {"case": outage, "then": {"$max": ["$heldUntil", until]}},
        ]
        held_until = {"$switch": {"branches": cases, "default": "$heldUntil"}}
        mark = self._locks.find_one_and_update(
            {"_id": "tick.timeouts"},
            [{"$set": {"heldUntil": held_until, "at": _moved_to(now)}}],
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )
        return mark.get("heldUntil") if mark else None


def _moved_to(now: datetime) -> dict[str, Any]:
    """The new instant of a mark. A process that was paused and wakes with an old ``now`` does not
    move it back; only a server's clock that was set back does.
    """
    return {"$cond": [_IS_AHEAD, now, {"$max": ["$at", now]}]}
