"""The log of the last passes: a capped collection, so that a note costs one insert."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pymongo
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events
from taskyard.documents import to_record

COLLECTION = "passes"

#: The size of the collection, in bytes and notes; MongoDB itself removes the oldest.
KEPT_BYTES = 1024 * 1024
KEPT = 2_000

#: How long a note may take to be written.
NOTE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class PassNote:
    """One pass that found jobs waiting."""

    id: Any = None
    at: datetime
    trigger: str
    queued: int
    assigned: int
    #: Assignments that failed because somebody else changed the job first.
    lost: int
    ms: float
    #: How many jobs each worker was given.
    workers: Mapping[str, int] = field(default_factory=dict)


class PassLog:
    """Notes passes and reads them."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._passes = database[COLLECTION].with_options(write_concern=WriteConcern(w=1))

    def note(
        self,
        *,
        at: datetime,
        trigger: str,
        queued: int,
        assigned: Mapping[str, int],
        lost: int,
        ms: float,
    ) -> None:
        """Note a pass. Errors of MongoDB are only logged: the pass is done, noted or not."""
        document = {
            "at": at,
            "trigger": trigger,
            "queued": queued,
            "assigned": sum(assigned.values()),
            "lost": lost,
            "ms": ms,
            "workers": [{"id": name, "jobs": count} for name, count in assigned.items()],
        }
        try:
            with pymongo.timeout(NOTE_SECONDS):
                self._passes.insert_one(document)
        except PyMongoError as error:
            events.warn("passes.note_failed", error=type(error).__name__)

    def last(self, limit: int) -> list[PassNote]:
        """The last passes, the newest first."""
        found = self._passes.find().sort("$natural", -1).limit(limit)
        return [_note(document) for document in found]


def _note(document: dict[str, Any]) -> PassNote:
    workers = {worker["id"]: worker["jobs"] for worker in document.pop("workers", ())}
    return to_record(PassNote, {**document, "workers": workers})
