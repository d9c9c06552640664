"""What a message's fields mean, as the server is told: due, held, alive, collected.

All times are the server's (``$$NOW``); no host's clock is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]

#: Messages of a queue that are counted where a look must not take long.
COUNTED = 10_000

#: Visible at once. A constant, so that messages of one priority are claimed in ``_id``'s order.
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)

#: A hundred years: further on is what no driver reads, and with it all that is read along.
MOST_MS = 36_525 * 24 * 3600 * 1000

_NEVER = datetime(9999, 1, 1, tzinfo=UTC)
_VISIBLE: Document = {"$expr": {"$lte": ["$visibleAt", "$$NOW"]}}
#: Not due yet, or held.
LATER: Document = {"$expr": {"$gt": ["$visibleAt", "$$NOW"]}}
ALIVE: Document = {"$expr": {"$gt": [{"$ifNull": ["$notAfter", _NEVER]}, "$$NOW"]}}
READY: Document = {"$and": [_VISIBLE, ALIVE]}
#: Due or not, but nobody's: also what a consumer held that died.
WAITING: Document = {"$and": [{"$or": [{"lease": None}, _VISIBLE]}, ALIVE]}
#: What is held is not collected, its consumer answers for it. Once its lease and its time are
#: over nobody may claim it any more, and nobody else would ever delete it.
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
    """The instant so far from now, or in a hundred years."""
    return {"$add": ["$$NOW", min(ms, MOST_MS)]}


def due_within(ms: int) -> Document:
    """Due, or so soon."""
    return {
        # Every one, so that the index leads to the first of each.
        "priority": {"$in": list(range(10))},
        "$expr": {"$lte": ["$visibleAt", {"$add": ["$$NOW", ms]}]},
    }


def stamp(lease: str, lease_ms: int) -> list[Document]:
    """Claimed under this lease."""
    return [
        {
            "$set": {
                "lease": lease,
                "visibleAt": {"$add": ["$$NOW", lease_ms]},
                "deliveries": {"$add": ["$deliveries", 1]},
            }
        },
        COLLECTED,
    ]


def released(*, undo_count: bool) -> Document:
    """Claimable at once; ``undo_count`` when no consumer has seen it."""
    return {
        "visibleAt": AT_ONCE,
        "lease": None,
        "deliveries": {"$subtract": ["$deliveries", int(undo_count)]},
        "putBack": {"$add": [{"$ifNull": ["$putBack", 0]}, int(not undo_count)]},
        "expireAt": "$notAfter",
    }


def literal(document: Mapping[str, Any]) -> Document:
    """The document's fields as values, whatever they look like; its id is the filter's."""
    return {name: {"$literal": value} for name, value in document.items() if name != "_id"}


def worn(document: Mapping[str, Any]) -> str:
    """Why it is buried: what became of the deliveries before the one that was too many."""
    times, back = document["deliveries"] - 1, document.get("putBack", 0)
    if not back:
        return f"delivered {times} times without an answer"
    return f"delivered {times} times: put back {back} times, without an answer {times - back} times"
