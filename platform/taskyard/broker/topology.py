"""Queues and bindings, stored for all processes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pymongo.database import Database

from taskyard.broker.stored import MOST_MS, later

Document = dict[str, Any]

#: How long messages live in a queue that expires and sets no limit: perhaps nobody ever reads it.
ORPHAN_MS = 24 * 60 * 60 * 1000


class Binding(NamedTuple):
    """A queue's binding to an exchange: which of the exchange's messages reach the queue."""

    exchange: str
    routing_key: str
    pattern: str | None
    #: The kind of the exchange: ``direct``, ``topic`` or ``fanout``.
    kind: str


@dataclass(frozen=True)
class QueueOptions:
    """The options with which a queue was declared."""

    #: How long the queue and its bindings live without a consumer.
    expires_ms: int | None = None
    #: How long its messages live at most.
    message_ttl_ms: int | None = None
    #: Without ``expires_ms`` the queue's consumers set how long it lives.
    auto_delete: bool = False


class Topology:
    """Operations on queues and bindings."""

    def __init__(self, database: Database[Document], prefix: str) -> None:
        self._queues = database[f"{prefix}.queues"]
        self._bindings = database[f"{prefix}.bindings"]

    def ensure_indexes(self) -> None:
        """Make the indexes."""
        self._bindings.create_index("exchange")
        self._bindings.create_index("queue")
        for collection in (self._queues, self._bindings):
            collection.create_index("expireAt", expireAfterSeconds=0)

    def declare(self, queue: str, options: QueueOptions) -> None:
        """Store a queue with its options."""
        ttl = options.message_ttl_ms
        fields: Document = {
            "messageTtlMs": None if ttl is None else min(ttl, MOST_MS),
            **_expiry(options),
        }
        self._queues.update_one({"_id": queue}, [{"$set": fields}], upsert=True)

    def exists(self, queue: str) -> bool:
        """Return whether the queue was declared and has not expired."""
        return self._queues.find_one({"_id": queue}, {"_id": 1}) is not None

    def message_ttl_ms(self, queue: str) -> int | None:
        """Return how long messages of the queue live at most, or None for no limit."""
        found = self._queues.find_one({"_id": queue}, {"messageTtlMs": 1, "expireAt": 1})
        if found is None:
            return None
        ttl: int | None = found["messageTtlMs"]
        return ORPHAN_MS if ttl is None and "expireAt" in found else ttl

    def bind(self, binding: Binding, queue: str, options: QueueOptions | None) -> None:
        """Store a binding of the queue. If its options are unknown (None) its expiry stays."""
        identity = json.dumps([binding.exchange, binding.routing_key, queue])
        fields: Document = {
            "exchange": {"$literal": binding.exchange},
            "routingKey": {"$literal": binding.routing_key},
            "pattern": {"$literal": binding.pattern},
            "kind": binding.kind,
            "queue": {"$literal": queue},
            **_expiry(options),
        }
        self._bindings.update_one({"_id": identity}, [{"$set": fields}], upsert=True)

    def bound(self, exchange: str) -> set[tuple[str, str | None, str]]:
        """Return (routing key, pattern, queue) of each binding to the exchange."""
        found = self._bindings.find({"exchange": exchange})
        return {(d["routingKey"], d["pattern"], d["queue"]) for d in found}

    def kind(self, exchange: str) -> str | None:
        """Return the exchange's kind, as it is stored with its bindings, or None."""
        found = self._bindings.find_one({"exchange": exchange, "kind": {"$exists": True}})
        return found["kind"] if found else None

    def unbind(self, exchange: str, routing_key: str, queue: str) -> None:
        """Remove a binding."""
        # Not by ``_id``: earlier versions formed it differently.
        same = {"queue": queue, "exchange": exchange, "routingKey": routing_key}
        self._bindings.delete_many(same)

    def keep(self, queue: str, options: QueueOptions, bindings: Iterable[Binding]) -> None:
        """Store a consumed queue and its bindings again: they live on, also after an outage."""
        self.declare(queue, options)
        for binding in bindings:
            self.bind(binding, queue, options)

    def drop(self, queue: str) -> None:
        """Remove the queue with its bindings."""
        self._bindings.delete_many({"queue": queue})
        self._queues.delete_one({"_id": queue})


def _expiry(options: QueueOptions | None) -> Document:
    """Return the change of ``expireAt``: none, a time from now, or never."""
    if options is None or (options.auto_delete and options.expires_ms is None):
        return {}
    return {"expireAt": "$$REMOVE" if options.expires_ms is None else later(options.expires_ms)}
