"""Counters that all processes share, stored in one document. They are for people to look at: a
lost addition costs a number, never a job. Callers do not wait for the write.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pymongo
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events

_ALL = {"_id": "all"}

#: Additions within this time become one write.
GATHER_SECONDS = 0.1

#: How long a write may take.
ADD_SECONDS = 1.0


class CounterStore:
    """Adds to counters and reads them."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._counters = database["counters"].with_options(write_concern=WriteConcern(w=1))
        self._added: dict[str, float] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def add(self, counts: Mapping[str, float]) -> None:
        """Add to counters (``name`` or ``name.label``); the write follows soon."""
        with self._lock:
            first = not self._added
            for name, count in counts.items():
                self._added[name] = self._added.get(name, 0) + count
        if first and counts:
            try:
                threading.Thread(target=self._flush_soon, name="counters", daemon=True).start()
            except RuntimeError:
                # The host has no thread left: what is counted has happened and must not fail.
                self.flush()

    def flush(self) -> None:
        """Write what was added.

        Errors of MongoDB are only logged: what was counted has happened all the same.
        """
        # A flush before a read waits for a write that is under way.
        with self._writing:
            with self._lock:
                counts, self._added = self._added, {}
            if not counts:
                return
            try:
                with pymongo.timeout(ADD_SECONDS):
                    self._counters.update_one(_ALL, {"$inc": counts}, upsert=True)
            except PyMongoError as error:
                events.warn("counters.add_failed", error=type(error).__name__)

    def read(self) -> Mapping[str, Any]:
        """All counters by name; a counter with labels is a mapping of label to count."""
        self.flush()
        return self._counters.find_one(_ALL, {"_id": 0}) or {}

    def _flush_soon(self) -> None:
        time.sleep(GATHER_SECONDS)
        self.flush()
