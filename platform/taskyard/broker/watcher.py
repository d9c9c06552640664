"""Wake-ups: one change stream per process tells which queues have new messages.

A wake-up is only a hint: a consumer that is woken claims, and a consumer that is not looks by
itself now and then.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from bson import Int64, ObjectId
from pymongo.database import Database
from pymongo.errors import InvalidOperation, PyMongoError

from taskyard.broker.stored import AT_ONCE

Document = dict[str, Any]


class Wake(Protocol):
    """Called when a queue may have something new."""

    def __call__(self, queue: str | None, message: ObjectId | None, *, later: bool) -> bool:
        """Take note that the message is new in the queue, or, if ``queue`` is None, that any queue
        may have something new. The message may be due only ``later``. Returns whether the queue
        is consumed.
        """


logger = logging.getLogger(__name__)

#: How long the server waits for changes; less than the client waits for the server.
_AWAIT_MS = 3000
_REOPEN_SECONDS = 1.0

#: How long the stream stays open after its last consumer has left, as in a web process that asked
#: its workers something: an open stream costs the server something for each write of others.
_IDLE_SECONDS = 10.0

#: Pause between an answer with changes and the next request: all changes of that time come in one
#: answer, which costs the server as much as an answer with one.
_GATHER_SECONDS = 0.01

#: How much longer the pause may be while no consumer has caught up: all have work anyway.
_BEHIND_SECONDS = 0.02


class Watcher:
    """Follows the message collection for all consumers of this process."""

    def __init__(self, open_database: Callable[[], Database[Document]], collection: str) -> None:
        self._open_database = open_database
        self._collection = collection
        self._wakes: dict[object, Wake] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        #: When the last consumer left, on the monotonic clock.
        self._left = 0.0
        self._caught_up = threading.Event()
        #: Why the stream last ended, or empty after an answer: each reason is logged once.
        self._reason = ""
        #: Whether the stream is open, so that consumers need not look for themselves.
        self.follows = False

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
        """Stop the calls for this owner."""
        with self._lock:
            self._wakes.pop(owner, None)
            self._left = time.monotonic()

    def resume(self) -> None:
        """End the pause: a consumer has seen the end of its queue, and the next message must wake
        it at once.
        """
        self._caught_up.set()

    def _run(self) -> None:
        while self._goes_on():
            try:
                self._follow()
            except InvalidOperation:
                return  # the client was closed: nobody listens any more
            except Exception as error:
                self._ended(error)
            finally:
                self.follows = False
            if self._is_wanted():
                time.sleep(_REOPEN_SECONDS)

    def _goes_on(self) -> bool:
        """Return whether the thread is wanted; if not, the next subscriber starts another."""
        with self._lock:
            if self._is_wanted():
                return True
            self._thread = None
            return False

    def _is_wanted(self) -> bool:
        return bool(self._wakes) or time.monotonic() < self._left + _IDLE_SECONDS

    def _ended(self, error: Exception) -> None:
        """Log why the stream ended, once for each type and code: messages may differ each time."""
        reason = f"{type(error).__name__} {getattr(error, 'code', '')}"
        if reason != self._reason:
            self._reason = reason
            name = type(error).__name__
            # An error that is not the driver's is a defect, and is found by its trace alone.
            trace = None if isinstance(error, PyMongoError) else error
            logger.warning(
                "broker: the change stream ended: %s: %.300s", name, error, exc_info=trace
            )

    def _follow(self) -> None:
        """Follow the stream by answers: a cursor of PyMongo does not show where an answer ends."""
        database = self._open_database()
        opening = {"pipeline": [{"$changeStream": {}}, *_PIPELINE], "cursor": {}}
        with database.client.start_session() as session:
            command = partial(database.command, session=session)
            cursor = command("aggregate", self._collection, **opening)["cursor"]["id"]
            self.follows = True
            # Messages that came before the stream was open have woken nobody.
            self._wake(None, None, later=True)
            asking = {"collection": self._collection, "maxTimeMS": _AWAIT_MS}
            while cursor and self._is_wanted():
                answer = command("getMore", Int64(cursor), **asking)["cursor"]
                cursor = answer["id"]
                self._reason = ""
                self._tell(answer["nextBatch"])
            if cursor:
                command("killCursors", self._collection, cursors=[Int64(cursor)])

    def _tell(self, changes: Sequence[Document]) -> None:
        self._caught_up.clear()
        woken = [self._heard(change) for change in changes]
        if woken:
            time.sleep(_GATHER_SECONDS)
        if any(woken):
            self._caught_up.wait(_BEHIND_SECONDS)

    def _heard(self, change: Document) -> bool:
        return self._wake(change["queue"], change["documentKey"]["_id"], later=change["later"])

    def _wake(self, queue: str | None, message: ObjectId | None, *, later: bool) -> bool:
        with self._lock:
            wakes = list(self._wakes.values())
        woken = [wake(queue, message, later=later) for wake in wakes]
        return any(woken)


#: New messages, and messages that were released; neither claims nor renewals, nor messages that
#: have become due: each consumer looks for these itself.
_PIPELINE: list[Document] = [
    {
        "$match": {
            "$or": [
                {"operationType": "insert"},
                {"updateDescription.updatedFields.backIn": {"$exists": True}},
            ]
        }
    },
    {
        "$project": {
            "queue": {
                "$ifNull": ["$fullDocument.queue", "$updateDescription.updatedFields.backIn"]
            },
            "documentKey": 1,
            "later": {"$gt": ["$fullDocument.visibleAt", AT_ONCE]},
        }
    },
]
