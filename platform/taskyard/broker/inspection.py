"""An operator's view of queues and dead letters: list, requeue, drop.

It needs the database alone, so any Celery project may use it::

    Inspection(MongoClient(uri)["celery"]).queues()
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson import ObjectId
from bson.errors import InvalidId
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from taskyard.broker.broker import PREFIX
from taskyard.broker.connection import authoritative
from taskyard.broker.stored import AT_ONCE, COUNTED

Document = dict[str, Any]

#: Most queues that are listed.
QUEUES = 200

#: Characters that are shown of a payload, and of each text in its headers.
SHOWN = 4_000


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """A queue and its messages, counted up to ``COUNTED``; ``more`` says that there are more."""

    name: str
    #: Messages that a consumer may claim, now or when they are due.
    waiting: int
    #: Messages under a lease: their consumer holds them, or died a moment ago.
    held: int
    more: bool
    oldest_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """A message that nobody could handle, and why."""

    id: str
    queue: str
    reason: str
    published_at: datetime
    died_at: datetime | None
    deliveries: int
    #: The task's name, id and arguments, where the payload can be read.
    task: str | None
    task_id: str | None
    arguments: str | None
    payload: str


class Inspection:
    """An operator's commands. Each is safe to repeat after an error."""

    def __init__(self, database: Database[Document], prefix: str = PREFIX) -> None:
        # The times in ids have a zone; stored times need one to be compared with them.
        aware = database.codec_options.with_options(tz_aware=True)
        database = authoritative(database).with_options(codec_options=aware)
        self._messages = database[f"{prefix}.messages"]
        self._queues = database[f"{prefix}.queues"]
        self._dead = database[f"{prefix}.dead_letters"]

    def queues(self) -> list[QueueState]:
        """Return the queues that were declared or have messages, by name, at most ``QUEUES``.
        Empty ones are left out first: each sender of remote control has one for its answers.
        """
        full = set(self._messages.distinct("queue"))
        declared = {found["_id"] for found in self._queues.find({}, {"_id": 1})}
        names = [*sorted(full), *sorted(declared - full)][:QUEUES]
        return [self._state(name) for name in sorted(names)]

    def dead_letters(
        self, *, queue: str | None = None, limit: int = 50, after: str | None = None
    ) -> list[DeadLetter]:
        """Return dead letters, the last published first; ``after`` is the id that ended a page."""
        wanted: Document = {"queue": queue} if queue else {}
        if after is not None:
            identity = _identity(after)
            if identity is None:
                return []
            wanted["_id"] = {"$lt": identity}
        return [_letter(found) for found in self._dead.find(wanted).sort("_id", -1).limit(limit)]

    def count_dead(self) -> int:
        """How many dead letters there are."""
        return self._dead.estimated_document_count()

    def requeue(self, ids: Sequence[str]) -> int:
        """Put dead letters back into their queues as if they were new; returns how many."""
        return sum(self._requeue(identity) for identity in _identities(ids))

    def drop(self, ids: Sequence[str]) -> int:
        """Delete dead letters for good; returns how many."""
        return self._dead.delete_many({"_id": {"$in": _identities(ids)}}).deleted_count

    def _requeue(self, identity: ObjectId) -> bool:
        """Publish the message under its id, then delete the dead letter. A crash in between leaves
        both; the next try publishes nothing while the message is still there.
        """
        found = self._dead.find_one({"_id": identity})
        if found is None:
            return False
        message = {
            "queue": found["queue"],
            "priority": found["priority"],
            "payload": found["payload"],
            "visibleAt": AT_ONCE,
            "lease": None,
            "deliveries": 0,
        }
        try:
            self._messages.update_one({"_id": identity}, {"$setOnInsert": message}, upsert=True)
        except DuplicateKeyError:
            return False  # somebody else requeues it just now
        return self._dead.delete_one({"_id": identity}).deleted_count == 1

    def _state(self, name: str) -> QueueState:
        held = {"$and": [{"$ne": ["$lease", None]}, {"$gt": ["$visibleAt", "$$NOW"]}]}
        stages: list[Document] = [
            {"$match": {"queue": name}},
            {"$limit": COUNTED + 1},
            {
                "$group": {
                    "_id": None,
                    "all": {"$sum": 1},
                    "held": {"$sum": {"$cond": [held, 1, 0]}},
                    "oldest": {"$min": "$_id"},
                }
            },
        ]
        found = next(iter(self._messages.aggregate(stages)), None)
        if found is None:
            return QueueState(name=name, waiting=0, held=0, more=False, oldest_at=None)
        return QueueState(
            name=name,
            waiting=min(found["all"], COUNTED) - found["held"],
            held=found["held"],
            more=found["all"] > COUNTED,
            oldest_at=found["oldest"].generation_time,
        )


def _letter(found: Document) -> DeadLetter:
    headers = _headers(found["payload"])
    return DeadLetter(
        id=str(found["_id"]),
        queue=found["queue"],
        reason=found["reason"],
        published_at=found["_id"].generation_time,
        died_at=found.get("diedAt"),
        deliveries=found["deliveries"],
        task=_text(headers.get("task")),
        task_id=_text(headers.get("id")),
        arguments=_text(headers.get("argsrepr")),
        payload=found["payload"][:SHOWN],
    )


def _headers(payload: str) -> Document:
    """Return the message's headers; an unreadable payload has none."""
    try:
        headers = json.loads(payload)["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}


def _text(value: Any) -> str | None:
    return value[:SHOWN] if isinstance(value, str) else None


def _identity(text: str) -> ObjectId | None:
    try:
        return ObjectId(text)
    except InvalidId:
        return None


def _identities(ids: Sequence[str]) -> list[ObjectId]:
    return [identity for text in ids if (identity := _identity(text)) is not None]
