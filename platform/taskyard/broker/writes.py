"""Writes on messages that may take several commands, and how many messages each one gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from taskyard.broker.deliveries import Delivery
from taskyard.broker.stored import COLLECTED, later

Document = dict[str, Any]

#: Most messages that one command renews or deletes, so that it ends in time.
RENEWED_AT_ONCE = 1_000
DELETED_AT_ONCE = 5_000


def add(
    messages: Collection[Document],
    document: Document,
    delay_ms: int,
    ttl_ms: int | None,
) -> None:
    """Add a message; repeated with the same ``_id`` this adds nothing."""
    mine = {"_id": document["_id"]}
    if not delay_ms and ttl_ms is None:
        try:
            messages.insert_one(document)
        except DuplicateKeyError:
            # The message is there. A write that changes nothing also waits for a majority.
            messages.update_one(mine, {"$setOnInsert": mine})
        return
    timed = {name: {"$literal": value} for name, value in document.items()}
    if delay_ms:
        timed["visibleAt"] = later(delay_ms)
    if ttl_ms is not None:
        # ``notAfter`` decides; ``expireAt`` only has the server collect what nobody claimed.
        timed["notAfter"] = timed["expireAt"] = later(ttl_ms)
    there = {"$gt": ["$queue", None]}
    once = [{"$replaceWith": {"$cond": [there, "$$ROOT", timed]}}]
    messages.update_one(mine, once, upsert=True)


def renew(messages: Collection[Document], held: Sequence[Delivery], lease_ms: int) -> set[Delivery]:
    """Extend the leases of these deliveries; returns those that are still held."""
    still: set[Delivery] = set()
    for begin in range(0, len(held), RENEWED_AT_ONCE):
        still |= _renewed(messages, held[begin : begin + RENEWED_AT_ONCE], lease_ms)
    return still


def _renewed(
    messages: Collection[Document], held: Sequence[Delivery], lease_ms: int
) -> set[Delivery]:
    mine = {
        "_id": {"$in": [delivery.id for delivery in held]},
        "lease": {"$in": list({delivery.lease for delivery in held})},
    }
    longer = {"$set": {"visibleAt": {"$add": ["$$NOW", lease_ms]}}}
    messages.update_many(mine, [longer, COLLECTED])
    found = messages.find(mine, {"lease": 1})
    return {Delivery(d["_id"], d["lease"]) for d in found} & set(held)


def delete(messages: Collection[Document], some: Document) -> int:
    """Delete these messages; returns how many."""
    deleted = 0
    while True:
        found = messages.find(some, {"_id": 1}).limit(DELETED_AT_ONCE)
        ids = [document["_id"] for document in found]
        deleted += messages.delete_many({**some, "_id": {"$in": ids}}).deleted_count
        # Not repeated until none is left: others may publish meanwhile.
        if len(ids) < DELETED_AT_ONCE:
            return deleted
