"""Counters that all processes share, in one document. They are for people to look at: an add
that is lost costs a number, never a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pymongo
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events

_ALL = {"_id": "all"}

#: Nobody waits longer than this for a number to be written.
ADD_SECONDS = 1.0


class CounterStore:
    """Adds to counters and reads them."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._counters = database["counters"].with_options(write_concern=WriteConcern(w=1))

    def add(self, counts: Mapping[str, float]) -> None:
        """Add to counters (``name`` or ``name.label``) in one write; for nothing there is none.

        Never raises for the database's sake: what was done is done, counted or not.
        """
        if not counts:
            return
        try:
            with pymongo.timeout(ADD_SECONDS):
                self._counters.update_one(_ALL, {"$inc": dict(counts)}, upsert=True)
        except PyMongoError as error:
            events.warn("counters.add_failed", error=type(error).__name__)

    def read(self) -> Mapping[str, Any]:
        """All counters by name; one with labels is a mapping of its own."""
        return self._counters.find_one(_ALL, {"_id": 0}) or {}
