"""The message collection: publish, claim, renew, acknowledge, release, dead-letter.

A claim does not delete a message but leases it: the lease is over when ``visibleAt`` has passed,
and then any consumer may claim the message again.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any

import pymongo
from bson import ObjectId
from pymongo import DeleteOne, ReturnDocument, UpdateOne, WriteConcern
from pymongo.database import Database

from taskyard.broker import writes
from taskyard.broker.connection import may_pass
from taskyard.broker.deliveries import Batch, Claimed, Delivery
from taskyard.broker.stored import (
    ALIVE,
    AT_ONCE,
    LATER,
    ORDER,
    READY,
    WAITING,
    due_within,
    literal,
    released,
    stamp,
    worn,
)

logger = logging.getLogger(__name__)

Document = dict[str, Any]

#: Deliveries of one message after which the message is taken to kill its consumers.
MAX_DELIVERIES = 5

#: How long the driver tries one publish: longer than an election takes. Its retries are one write,
#: which the server makes once; a later retry may add a message again that was acknowledged.
PUBLISH_SECONDS = 15.0

#: How long a dead letter is kept for somebody to look at.
DEAD_KEPT_SECONDS = 30 * 24 * 3600

#: Characters of a reason that are kept.
REASON = 2_000

#: Most bytes of a claim of more than one message: the answer must be read in time.
CLAIMED_BYTES = 16 * 1024 * 1024

#: How many messages one query for queues with something to claim reads.
READY_AT_ONCE = 100

#: How many messages that have become due one look moves to their place; the next one moves more.
PLACED_AT_ONCE = 1_000

_TRANSIENT = 1


class Messages:
    """Operations on messages. Each is safe to repeat after an error."""

    def __init__(
        self,
        database: Database[Document],
        prefix: str,
        max_deliveries: int = MAX_DELIVERIES,
        *,
        publish_seconds: float = PUBLISH_SECONDS,
    ) -> None:
        self._max_deliveries = max_deliveries
        self._publish_seconds = publish_seconds
        #: Leases of claims that failed, by queue: the server may have made them.
        self._unknown: dict[str, list[str]] = {}
        self._all = database[f"{prefix}.messages"]
        # Control commands and events are not worth an fsync.
        self._transient = self._all.with_options(write_concern=WriteConcern(w=1))
        self._dead = database[f"{prefix}.dead_letters"]

    @property
    def name(self) -> str:
        """The name of the collection that the change stream watches."""
        return self._all.name

    def ensure_indexes(self) -> None:
        """Make the indexes that every claim and count needs."""
        self._all.create_index([("queue", 1), *ORDER])
        self._all.create_index("expireAt", expireAfterSeconds=0)
        self._dead.create_index([("queue", 1), ("_id", 1)])
        self._dead.create_index("diedAt", expireAfterSeconds=DEAD_KEPT_SECONDS)

    def publish(
        self,
        queue: str,
        payload: str,
        *,
        identity: ObjectId | None = None,
        priority: int = 0,
        delay_ms: int = 0,
        ttl_ms: int | None = None,
        delivery_mode: int | None = None,
    ) -> None:
        """Add a message, durable on a majority unless it is transient; 9 is the first priority.

        A caller that tries again after an error gives the same ``identity``, so that the message
        is added once.
        """
        document: Document = {
            "_id": identity or ObjectId(),
            "queue": queue,
            "priority": 9 - priority,
            "visibleAt": AT_ONCE,
            "lease": None,
            "deliveries": 0,
            "payload": payload,
        }
        messages = self._transient if delivery_mode == _TRANSIENT else self._all
        with self.patience(delivery_mode):
            writes.add(messages, document, delay_ms, ttl_ms)

    def patience(self, delivery_mode: int | None) -> AbstractContextManager[Any]:
        """Return a context that gives one publish and its look-ups ``publish_seconds``, or, if the
        message is transient, only the driver's usual time.
        """
        if delivery_mode == _TRANSIENT:
            return nullcontext()
        return pymongo.timeout(self._publish_seconds)

    def claim(self, queue: str, limit: int, lease_ms: int) -> Batch[Claimed]:
        """Lease up to ``limit`` messages that are ready, by priority, then by age.

        A claim that fails may have leased some. The queue's next claim returns them, or
        ``release_unknown`` releases them.
        """
        unknown = self._unknown.pop(queue, [])
        lease = secrets.token_hex(8)
        try:
            found = self._read_back(queue, unknown, lease_ms)
            if not found:
                found = self._stamped(queue, limit, lease, lease_ms)
            return Batch(self._taken(found), more=found.more)
        except BaseException:
            # Not only the driver's errors: Celery's handler of a cold stop raises anywhere.
            self._unknown.setdefault(queue, []).extend([*unknown, lease])
            raise

    def ready(self, queues: Iterable[str]) -> set[str]:
        """Return those of these queues in which there is something to claim."""
        ready, left = set[str](), set(queues)
        while left:
            mine = {"queue": {"$in": list(left)}, **READY}
            some = list(self._all.find(mine, {"queue": 1}).limit(READY_AT_ONCE))
            ready.update(message["queue"] for message in some)
            # A full answer may be of one queue alone, and hide the others.
            left = left - ready if len(some) == READY_AT_ONCE else set()
        return ready

    def take_place(self, queues: Iterable[str]) -> None:
        """Give messages of these queues that have become due the place of their age.

        They would otherwise be claimed after every message that was due at once, also those that
        are published later, and never under a backlog that does not end.
        """
        due = {"visibleAt": {"$gt": AT_ONCE}, **READY}
        mine = {"queue": {"$in": list(queues)}, "priority": {"$in": list(range(10))}, **due}
        ids = [found["_id"] for found in self._all.find(mine, {"_id": 1}).limit(PLACED_AT_ONCE)]
        if ids:
            at_once = [{"$set": {"visibleAt": AT_ONCE}}]
            self._all.update_many({"_id": {"$in": ids}, **due}, at_once)

    def next_due_ms(self, queues: Iterable[str], *, within_ms: int) -> int | None:
        """Return in how many milliseconds the next message of these queues becomes due, or None.
        Messages that are due already do not count.
        """
        soon = {"queue": {"$in": list(queues)}, "$and": [due_within(within_ms), LATER, ALIVE]}
        left = {"ms": {"$subtract": ["$visibleAt", "$$NOW"]}}
        found = self._all.find_one(soon, left, sort=[("visibleAt", 1)])
        return int(found["ms"]) if found else None

    @property
    def unknown(self) -> set[str]:
        """The queues of which a failed claim may have leased messages: only the next claim finds
        them.
        """
        return {queue for queue, leases in list(self._unknown.items()) if leases}

    def release_unknown(self) -> None:
        """Release what failed claims may have leased, when no further claim will find it."""
        for queue, leases in list(self._unknown.items()):
            mine = {"queue": queue, "lease": {"$in": leases}}
            self._all.update_many(mine, [{"$set": released(undo_count=True)}])
            self._unknown.pop(queue, None)

    def renew(self, held: Sequence[Delivery], lease_ms: int) -> set[Delivery]:
        """Extend the leases of these deliveries; returns those that are still held."""
        return writes.renew(self._all, held, lease_ms)

    def acknowledge(self, done: Sequence[Delivery]) -> list[Delivery]:
        """Delete these messages; returns the deliveries that had lost their lease to another."""
        requests = [DeleteOne({"_id": d.id, "lease": d.lease}) for d in done]
        removed = self._all.bulk_write(requests, ordered=False).deleted_count
        if removed == len(done):
            return []
        there = self._all.find({"_id": {"$in": [d.id for d in done]}}, {"lease": 1})
        others = {d["_id"] for d in there}
        return [delivery for delivery in done if delivery.id in others]

    def release(self, held: Sequence[Delivery], *, undo_count: bool = False) -> None:
        """Make messages claimable at once; ``undo_count`` when no consumer has seen them."""
        fields = released(undo_count=undo_count)
        mine = ({"_id": delivery.id, "lease": delivery.lease} for delivery in held)
        self._all.bulk_write([UpdateOne(one, [{"$set": fields}]) for one in mine], ordered=False)

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Move a message to the dead letters, with the reason; safe to repeat."""
        found = self._all.find_one({"_id": delivery.id, "lease": delivery.lease})
        if found is None:
            return
        # The reason may quote the message: very long, or with characters that cannot be encoded.
        kept = {"$literal": reason[:REASON].encode(errors="replace").decode()}
        dead = [{"$set": {**literal(found), "reason": kept, "diedAt": "$$NOW"}}]
        self._dead.update_one({"_id": found["_id"]}, dead, upsert=True)
        self._all.delete_one({"_id": delivery.id, "lease": delivery.lease})

    def count(self, queue: str, most: int | None = None) -> int:
        """Count the messages that wait in the queue, due or not but not held, up to ``most``."""
        limit: Document = {} if most is None else {"limit": most}
        return self._all.count_documents({"queue": queue, **WAITING}, **limit)

    def purge(self, queue: str) -> int:
        """Delete the messages that wait in the queue; returns how many."""
        return writes.delete(self._all, {"queue": queue, **WAITING})

    def drop(self, queue: str) -> None:
        """Delete all messages of the queue, held ones too."""
        writes.delete(self._all, {"queue": queue})

    def _stamped(self, queue: str, limit: int, lease: str, lease_ms: int) -> Batch[Document]:
        """Stamp the lease on up to ``limit`` ready messages, and return those that got it."""
        mine = stamp(lease, lease_ms)
        ready = {"queue": queue, **READY}
        if limit == 1:
            one = self._all.find_one_and_update(
                ready, mine, sort=ORDER, return_document=ReturnDocument.AFTER
            )
            return Batch([one] if one else [], more=bool(one))
        sized = {"bytes": {"$bsonSize": "$$ROOT"}}
        seen = list(self._all.find(ready, sized).sort(ORDER).limit(limit))
        totals = zip(seen, accumulate(d["bytes"] for d in seen), strict=True)
        ids = [d["_id"] for d, total in totals if total <= CLAIMED_BYTES or d is seen[0]]
        if not ids:
            return Batch(more=False)
        # Others may claim some between the look and the stamp: the stamp checks again, and the
        # lease tells which messages it won.
        self._all.update_many({"_id": {"$in": ids}, **READY}, mine)
        won = self._all.find({"_id": {"$in": ids}, "lease": lease})
        order = {identity: place for place, identity in enumerate(ids)}
        more = len(seen) >= limit or len(ids) < len(seen)
        return Batch(sorted(won, key=lambda d: order[d["_id"]]), more=more)

    def _read_back(self, queue: str, leases: list[str], lease_ms: int) -> Batch[Document]:
        """Return what failed claims leased, renewed; not what others have claimed since."""
        if not leases:
            return Batch(more=False)
        held = {"queue": queue, "lease": {"$in": leases}, **due_within(lease_ms)}
        found = list(self._all.find(held).sort(ORDER))
        ours = self.renew([Delivery(d["_id"], d["lease"]) for d in found], lease_ms)
        # Nobody has looked for messages behind these.
        return Batch((d for d in found if Delivery(d["_id"], d["lease"]) in ours), more=True)

    def _taken(self, found: Sequence[Mapping[str, Any]]) -> list[Claimed]:
        """Return the claimed messages without those delivered too often, which are buried."""
        taken = []
        for document in found:
            delivery = Delivery(document["_id"], document["lease"])
            if document["deliveries"] > self._max_deliveries:
                self._bury_worn(delivery, worn(document))
                continue
            taken.append(
                Claimed(delivery, document["queue"], document["payload"], document["deliveries"])
            )
        return taken

    def _bury_worn(self, delivery: Delivery, reason: str) -> None:
        try:
            self.bury(delivery, reason)
        except Exception as error:
            if may_pass(error):
                raise
            # Its lease keeps the message from being claimed again and again; others are delivered.
            logger.error("broker: %s cannot be buried: %.500s", delivery.tag, error)
