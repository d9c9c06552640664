"""Wake-ups: one change stream per process tells which queues have something new.

It is a hint and never the data: who wakes claims, and who was not woken looks by itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard.broker.messages import AT_ONCE

Document = dict[str, Any]

#: Called with the queue that changed, or None when it may be any.
Wake = Callable[[str | None], None]

logger = logging.getLogger(__name__)

_AWAIT_MS = 1000
_REOPEN_SECONDS = 1.0


class Watcher:
    """Follows the message collection for all consumers of this process."""

    def __init__(self, open_database: Callable[[], Database[Document]], collection: str) -> None:
        self._open_database = open_database
        self._collection = collection
        self._wakes: dict[object, Wake] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def subscribe(self, owner: object, wake: Wake) -> None:
        """Call ``wake`` for everything new, from the watcher's own thread."""
        with self._lock:
            self._wakes[owner] = wake
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="broker-watcher", daemon=True
                )
                self._thread.start()

    def unsubscribe(self, owner: object) -> None:
        """Call it no more."""
        with self._lock:
            self._wakes.pop(owner, None)

    def _run(self) -> None:
        while True:
            try:
                self._follow()
            except PyMongoError as error:
                logger.warning("broker: the change stream ended: %s", type(error).__name__)
            time.sleep(_REOPEN_SECONDS)

    def _follow(self) -> None:
        collection = self._open_database()[self._collection]
        with collection.watch(_PIPELINE, max_await_time_ms=_AWAIT_MS) as stream:
            # What came before the stream was open has woken nobody.
            self._wake(None)
            while stream.alive:
                change = stream.try_next()
                if change is not None:
                    self._wake(change.get("fullDocument", {}).get("queue"))

    def _wake(self, queue: str | None) -> None:
        with self._lock:
            wakes = list(self._wakes.values())
        for wake in wakes:
            wake(queue)


#: New messages, and messages that were released; neither claims nor renewals.
_PIPELINE: list[Document] = [
    {
        "$match": {
            "$or": [
                {"operationType": "insert"},
                {"updateDescription.updatedFields.visibleAt": AT_ONCE},
            ]
        }
    },
    {"$project": {"fullDocument.queue": 1}},
]
