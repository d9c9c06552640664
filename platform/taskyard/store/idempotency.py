"""Idempotency keys: the same request made twice gives the same jobs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from taskyard.clock import Clock
from taskyard.errors import InvalidRequest

KEPT = timedelta(hours=24)


class IdempotencyStore:
    """Records that tie a caller's key to a body and to the ids made for it in advance."""

    def __init__(self, database: Database[dict[str, Any]], clock: Clock) -> None:
        self._records = database["idempotency"]
        self._clock = clock

    def ids_for(self, caller: str, key: str, body: bytes, fresh: Sequence[str]) -> Sequence[str]:
        """The job ids for this request: ``fresh`` the first time, the same ids for 24 hours after.

        The jobs are written after this record and under these ids, so the caller's next try
        repairs a crash in between. Raises InvalidRequest for another body.
        """
        identity = hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest()
        digest = hashlib.sha256(body).hexdigest()
        record = {
            "_id": identity,
            "bodyHash": digest,
            "ids": list(fresh),
            "expireAt": self._clock.now() + KEPT,
        }
        try:
            self._records.insert_one(record)
        except DuplicateKeyError:
            earlier = self._records.find_one({"_id": identity})
            if earlier is None:  # the record's 24 hours ended just now
                return self.ids_for(caller, key, body, fresh)
            if earlier["bodyHash"] != digest:
                raise InvalidRequest(
                    "This Idempotency-Key was used with another body.", field="Idempotency-Key"
                ) from None
            return list(earlier["ids"])
        return fresh
