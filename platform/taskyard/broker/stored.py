"""Filters and updates of stored messages: what it means to be due, held, alive, collected.

All times are the server's (``$$NOW``); no host's clock is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]

#: How many messages of a queue are counted at most where the count must not take long.
COUNTED = 10_000

#: The ``visibleAt`` of a message that is due at once. A constant, so that messages of one priority
#: are claimed in the order of their ``_id``.
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)

#: A hundred years, the longest time: a date too far off makes any driver fail on the whole answer.
MOST_MS = 36_525 * 24 * 3600 * 1000

_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_VISIBLE: Document = {"$expr": {"$lte": ["$visibleAt", "$$NOW"]}}
#: Not due yet, or held.
LATER: Document = {"$expr": {"$gt": ["$visibleAt", "$$NOW"]}}
ALIVE: Document = {"$expr": {"$gt": [{"$ifNull": ["$notAfter", _NEVER]}, "$$NOW"]}}
READY: Document = {"$and": [_VISIBLE, ALIVE]}
#: Held by nobody, due or not; also what a dead consumer held, once the lease is over.
WAITING: Document = {"$and": [{"$or": [{"lease": None}, _VISIBLE]}, ALIVE]}
#: When the server collects a message that expires: not while it is held, since its consumer
#: answers for it. Once its lease and its time are both over nobody may claim it, so nobody else
#: would ever delete it.
COLLECTED: Document = {
    "$set": {
        "expireAt": {
            "$cond": [
                {"$gt": ["$notAfter", None]},
                {"$max": ["$notAfter", "$visibleAt"]},
                "$$REMOVE",
            ]
        }
    }
}
ORDER = [("priority", 1), ("visibleAt", 1), ("_id", 1)]


def later(ms: int) -> Document:
    """Return the instant ``ms`` from now, at most in a hundred years."""
    return {"$add": ["$$NOW", min(ms, MOST_MS)]}


def due_within(ms: int) -> Document:
    """Return the filter of messages that are due, or become so within ``ms``."""
    return {
        # All priorities are named, so that the index leads to the first message of each.
        "priority": {"$in": list(range(10))},
        "$expr": {"$lte": ["$visibleAt", {"$add": ["$$NOW", ms]}]},
    }


def stamp(lease: str, lease_ms: int) -> list[Document]:
    """Return the update that claims messages under this lease."""
    return [
        {
            "$set": {
                "lease": lease,
                "visibleAt": {"$add": ["$$NOW", lease_ms]},
                "deliveries": {"$add": ["$deliveries", 1]},
                "backIn": "$$REMOVE",
            }
        },
        COLLECTED,
    ]


def released(*, undo_count: bool) -> Document:
    """Return the fields of a message that is claimable at once; ``undo_count`` takes back the
    count of its last delivery, which no consumer has seen.
    """
    return {
        "visibleAt": AT_ONCE,
        "lease": None,
        # Tells the change stream the queue: it reports of an update what has changed, no more.
        "backIn": "$queue",
        "deliveries": {"$subtract": ["$deliveries", int(undo_count)]},
        "putBack": {"$add": [{"$ifNull": ["$putBack", 0]}, int(not undo_count)]},
        "expireAt": "$notAfter",
    }


def literal(document: Mapping[str, Any]) -> Document:
    """Return the document's fields as values, even if they look like expressions. Its id is
    left to the filter.
    """
    return {name: {"$literal": value} for name, value in document.items() if name != "_id"}


def worn(document: Mapping[str, Any]) -> str:
    """Return why a message delivered too often is buried: how its earlier deliveries ended."""
    times, back = document["deliveries"] - 1, document.get("putBack", 0)
    if not back:
        return f"delivered {times} times without an answer"
    return f"delivered {times} times: put back {back} times, without an answer {times - back} times"
