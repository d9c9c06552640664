"""Wake-ups: one change stream per process tells which queues have something new.

It is a hint and never the data: who wakes claims, and who was not woken looks by itself.
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
        """The queue changed, or any if it is None, by this message, which may be due only
        ``later``; returns whether the queue is consumed.
        """


logger = logging.getLogger(__name__)

#: How long the server waits for news; less than the client waits for the server.
_AWAIT_MS = 3000
_REOPEN_SECONDS = 1.0

#: Without a consumer for so long (a web process that has asked its workers something) the stream
#: is closed: an open one costs the server something for each write of others.
_IDLE_SECONDS = 10.0

#: After an answer of the server the next one is asked for so much later: then all that came in
#: between comes at once, and costs the server what one change does.
_GATHER_SECONDS = 0.01

#: While consumers are behind anyway, news can wait so long.
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
        #: Why the stream ended, since it last told anything.
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
        """Call it no more."""
        with self._lock:
            self._wakes.pop(owner, None)
            self._left = time.monotonic()

    def resume(self) -> None:
        """A consumer has seen the end of its queue: the next message is to wake it at once."""
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
        """Whether the thread is wanted; if not, who subscribes next starts another."""
        with self._lock:
            if self._is_wanted():
                return True
            self._thread = None
            return False

    def _is_wanted(self) -> bool:
        return bool(self._wakes) or time.monotonic() < self._left + _IDLE_SECONDS

    def _ended(self, error: Exception) -> None:
        """Tell why, once: a message may differ each time in what nobody asks for."""
        reason = f"{type(error).__name__} {getattr(error, 'code', '')}"
        if reason != self._reason:
            self._reason = reason
            name = type(error).__name__
            # What is not the driver's is a defect, which nobody finds by its last word.
            trace = None if isinstance(error, PyMongoError) else error
            logger.warning(
                "broker: the change stream ended: %s: %.300s", name, error, exc_info=trace
            )

    def _follow(self) -> None:
        """Follow the stream by answers. A cursor of PyMongo does not show where one ends."""
        database = self._open_database()
        opening = {"pipeline": [{"$changeStream": {}}, *_PIPELINE], "cursor": {}}
        with database.client.start_session() as session:
            command = partial(database.command, session=session)
            cursor = command("aggregate", self._collection, **opening)["cursor"]["id"]
            self.follows = True
            # What came before the stream was open has woken nobody.
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
        queue = change.get("fullDocument", {}).get("queue")
        return self._wake(queue, change["documentKey"]["_id"], later=change["later"])

    def _wake(self, queue: str | None, message: ObjectId | None, *, later: bool) -> bool:
        with self._lock:
            wakes = list(self._wakes.values())
        woken = [wake(queue, message, later=later) for wake in wakes]
        return any(woken)


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
    {
        "$project": {
            "fullDocument.queue": 1,
            "documentKey": 1,
            "later": {"$gt": ["$fullDocument.visibleAt", AT_ONCE]},
        }
    },
]
