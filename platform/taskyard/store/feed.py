"""Wake-ups: one change stream per process tells who waits for a job that something changed.

It is a hint and never the data: whoever wakes reads the collections, and whoever does not is
woken by its own time-out (``broker-notes.md``: one stream, on a client of its own).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events

_REOPEN_SECONDS = 0.5

#: Waits for a change of any job; output alone is none.
ANY_JOB = ""

_PIPELINE: list[dict[str, Any]] = [
    {
        "$match": {
            "ns.coll": {"$in": ["jobs", "output"]},
            "operationType": {"$in": ["insert", "update", "replace"]},
        }
    },
    {"$project": {"documentKey": 1}},
]


class Feed:
    """Wakes waiters of jobs; the stream is opened with the first of them."""

    def __init__(
        self,
        open_client: Callable[[], MongoClient[dict[str, Any]]],
        database: Database[dict[str, Any]],
    ) -> None:
        self._open_client = open_client
        self._database_name = database.name
        self._waiters: dict[str, set[threading.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def waiting_for(self, job_id: str) -> Iterator[threading.Event]:
        """An event that is set whenever the job or its output changed; or ``ANY_JOB``."""
        woken = threading.Event()
        with self._lock:
            self._waiters[job_id].add(woken)
            self._ensure_thread()
        try:
            yield woken
        finally:
            with self._lock:
                self._waiters[job_id].discard(woken)
                if not self._waiters[job_id]:
                    del self._waiters[job_id]

    def close(self) -> None:
        """Stop listening."""
        self._closed.set()

    def _ensure_thread(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="feed", daemon=True)
            self._thread.start()

    def _listen(self) -> None:
        client = self._open_client()
        while not self._closed.is_set():
            try:
                self._follow(client)
            except PyMongoError as error:
                events.warn("feed.interrupted", error=type(error).__name__)
                time.sleep(_REOPEN_SECONDS)
        client.close()

    def _follow(self, client: MongoClient[dict[str, Any]]) -> None:
        with client[self._database_name].watch(_PIPELINE, max_await_time_ms=1000) as stream:
            # What changed before the stream was open has woken nobody: all look once.
            self._wake_all()
            while stream.alive and not self._closed.is_set():
                change = stream.try_next()
                if change is not None:
                    self._wake(change["documentKey"]["_id"])

    def _wake(self, key: Any) -> None:
        job_id = key["j"] if isinstance(key, dict) else key
        listening = (job_id, ANY_JOB) if key == job_id else (job_id,)
        with self._lock:
            for name in listening:
                for woken in self._waiters.get(name, ()):
                    woken.set()

    def _wake_all(self) -> None:
        with self._lock:
            for waiters in self._waiters.values():
                for woken in waiters:
                    woken.set()
