"""Wake-ups: change streams wake the threads that wait for a job when it has changed.

A wake-up is a hint and carries no data: a woken thread reads the collections, and a thread whose
wake-up is lost goes on at its own timeout. A stream is open only while a thread waits, and
``IDLE_SECONDS`` longer, because every change costs it something.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import InvalidOperation

from taskyard.jobs.states import TERMINAL
from taskyard.store.changes import REOPEN_SECONDS, answers, tell_broken

T = TypeVar("T")
Document = dict[str, Any]

#: The id that stands for any job: its waiters wake when a job changes, but not for output alone.
ANY_JOB = ""

#: How long the result of one waiter's read serves the other waiters; those for the same job only
#: until they are woken.
SHARED_SECONDS = 0.5

#: A stream without waiters for this long is closed.
IDLE_SECONDS = 10.0

#: Changes that come closer together than this are taken in groups: an answer costs the server as
#: much as several changes do. The first change after a pause is always passed on at once.
_GATHER_SECONDS = 0.01

_STATUS = "updateDescription.updatedFields.status"

#: Changes that a follower or a list shows; neither renewals nor the notes of stored output.
_CHANGES: list[Document] = [
    {
        "$match": {
            "$or": [
                {"ns.coll": {"$in": ["jobs", "output"]}, "operationType": "insert"},
                {"ns.coll": "jobs", _STATUS: {"$exists": True}},
                {
                    "ns.coll": "jobs",
                    "updateDescription.updatedFields.cancelRequested": {"$exists": True},
                },
            ]
        }
    },
    {"$project": {"documentKey": 1}},
]

#: The changes that end jobs, and no others.
_ENDS: list[Document] = [
    {"$match": {_STATUS: {"$in": [str(status) for status in TERMINAL]}}},
    {"$project": {"documentKey": 1}},
]


class Waiter(threading.Event):
    """An event that is set whenever the job that it waits for has changed."""

    def __init__(self, company: _Company) -> None:
        super().__init__()
        self._company = company

    def together(self, key: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` returns now. Waiters for the same job that ask with the same ``key`` at
        about the same time share one read.
        """
        return self._company.read(key, read)


class Feed:
    """Wakes the threads that wait for jobs."""

    def __init__(
        self, open_client: Callable[[], MongoClient[Document]], database: Database[Document]
    ) -> None:
        self._open_client = open_client
        self._client: MongoClient[Document] | None = None
        self._lock = threading.Lock()
        self._changes = _Stream(self._connect, database.name, 1, _CHANGES)
        self._ends = _Stream(self._connect, database.name, "jobs", _ENDS)
        self._everybody = _Company()

    def waiting_for(self, job_id: str) -> AbstractContextManager[Waiter]:
        """A waiter that is set whenever the state or output of the job (or ``ANY_JOB``) changes."""
        return self._changes.waiting_for(job_id)

    def waiting_for_end(self, job_id: str) -> AbstractContextManager[Waiter]:
        """A waiter that is set when the job has ended."""
        return self._ends.waiting_for(job_id)

    def shared(self, key: Hashable, read: Callable[[], T]) -> T:
        """What ``read`` returned for this ``key`` within ``SHARED_SECONDS``: one read for all
        waiters, whatever job they wait for.
        """
        return self._everybody.read(key, read)

    @property
    def is_open(self) -> bool:
        """Whether a stream is open, or about to be."""
        return self._changes.is_open or self._ends.is_open

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            if self._client is not None:
                self._client.close()

    def _connect(self) -> MongoClient[Document]:
        with self._lock:
            if self._client is None:
                self._client = self._open_client()
            return self._client


class _Company:
    """The waiters for the same job, and what one of them read for all."""

    def __init__(self) -> None:
        self.waiters: set[Waiter] = set()
        self._lock = threading.Lock()
        self._woken_at = 0.0
        self._key: Hashable = None
        self._value: Any = None
        self._read_at = 0.0

    def wake(self) -> None:
        """Set all waiters; an earlier read is no longer shared."""
        self._woken_at = time.monotonic()
        for waiter in self.waiters:
            waiter.set()

    def read(self, key: Hashable, read: Callable[[], T]) -> T:
        """See ``Waiter.together``."""
        if len(self.waiters) == 1:
            return read()
        with self._lock:
            fresh = self._read_at > max(self._woken_at, time.monotonic() - SHARED_SECONDS)
            if not fresh or self._key != key:
                began = time.monotonic()
                self._value, self._key, self._read_at = read(), key, began
            value: T = self._value
            return value


class _Stream:
    """One change stream on a thread of its own, open while there are waiters."""

    def __init__(
        self,
        connect: Callable[[], MongoClient[Document]],
        database: str,
        source: str | int,
        pipeline: list[Document],
    ) -> None:
        self._connect = connect
        self._database = database
        self._source = source
        self._pipeline = pipeline
        self._companies: dict[str, _Company] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waited_at = 0.0

    @contextmanager
    def waiting_for(self, job_id: str) -> Iterator[Waiter]:
        """A waiter for the job, for as long as the context lasts."""
        with self._lock:
            company = self._companies.setdefault(job_id, _Company())
            waiter = Waiter(company)
            company.waiters.add(waiter)
            if self._thread is None:
                self._thread = threading.Thread(target=self._listen, name="feed", daemon=True)
                self._thread.start()
        try:
            yield waiter
        finally:
            with self._lock:
                company.waiters.discard(waiter)
                if not company.waiters:
                    del self._companies[job_id]
                self._waited_at = time.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether the stream is open, or about to be."""
        return self._thread is not None

    def _listen(self) -> None:
        while self._thread is threading.current_thread():
            try:
                self._follow()
            except InvalidOperation:
                return  # the client was closed: nobody listens any more
            except Exception as error:
                tell_broken("feed", error)
                time.sleep(REOPEN_SECONDS)

    def _is_left(self) -> bool:
        """Whether there were no waiters for ``IDLE_SECONDS``; the next waiter opens it again."""
        with self._lock:
            left = not self._companies and time.monotonic() > self._waited_at + IDLE_SECONDS
            if left:
                self._thread = None
            return left

    def _follow(self) -> None:
        database = self._connect()[self._database]
        told_at = 0.0
        with contextlib.closing(answers(database, self._source, self._pipeline)) as followed:
            next(followed)
            # Changes from before the stream was open woke nobody: every waiter has to look once.
            self._wake_all()
            while not self._is_left():
                changes = next(followed, None)
                if changes is None:
                    return
                if changes:
                    self._wake(change["documentKey"]["_id"] for change in changes)
                    if time.monotonic() < told_at + _GATHER_SECONDS:
                        time.sleep(_GATHER_SECONDS)
                    told_at = time.monotonic()

    def _wake(self, keys: Iterable[Any]) -> None:
        """Wake the waiters for the jobs of these documents, and once the waiters for any job."""
        changed: set[str] = set()
        for key in keys:
            # The key of an output chunk has more than the job's id.
            changed |= {key["j"]} if isinstance(key, dict) else {key, ANY_JOB}
        with self._lock:
            for job_id in changed:
                if company := self._companies.get(job_id):
                    company.wake()

    def _wake_all(self) -> None:
        with self._lock:
            for company in self._companies.values():
                company.wake()
