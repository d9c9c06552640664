"""What one agent is told, in order: jobs that are offered to it, and changes of its own document.

As every wake-up, an offer is a hint: the next pass places jobs that were missed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from pymongo import MongoClient
from pymongo.database import Database

from taskyard.documents import to_record
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.store.changes import REOPEN_SECONDS, tell_broken
from taskyard.store.mailboxes import notes
from taskyard.workers.model import Worker

#: Pause after an answer with notes: those that follow closely come in one answer.
_GATHER_SECONDS = 0.005

#: How long a job that is not there yet is waited for: until a pass would place it, and how often
#: it is looked for.
_ARRIVAL_SECONDS = 0.02
_ARRIVAL_STEP_SECONDS = 0.001

#: How long what was read of the worker is relied on if no note comes.
_KNOWN_SECONDS = 3.0

OpenClient = Callable[[], MongoClient[dict[str, Any]]]


class Listener(Protocol):
    """Receives what the stream says, on the stream's thread."""

    def offer(self, job: Job) -> None:
        """A job is offered."""

    def look(self) -> None:
        """Notes are heard from now on; jobs may have been offered before, without notice."""

    def know(self, worker: Worker | None) -> None:
        """The agent's worker as stored, valid until the next call; None if there is none, and while
        the stream is down.
        """


class OfferStream:
    """Tells agents of the jobs that are offered to them."""

    def __init__(self, open_client: OpenClient, database: Database[dict[str, Any]]) -> None:
        self._open_client = open_client
        self._database_name = database.name
        self._codec_options = database.codec_options

    def listen(self, worker_id: str, listener: Listener) -> Callable[[], None]:
        """Inform ``listener`` on a new thread until the returned function is called."""
        stopped = threading.Event()

        def run() -> None:
            client = self._open_client()
            while not stopped.is_set():
                try:
                    self._follow(client, worker_id, listener, stopped)
                except Exception as error:
                    listener.know(None)
                    tell_broken("offers", error)
                    stopped.wait(REOPEN_SECONDS)
            client.close()

        threading.Thread(target=run, name="offers", daemon=True).start()
        return stopped.set

    def _follow(
        self,
        client: MongoClient[dict[str, Any]],
        worker_id: str,
        listener: Listener,
        stopped: threading.Event,
    ) -> None:
        database = client.get_database(self._database_name, codec_options=self._codec_options)
        told = _Told(database, worker_id, listener)
        with contextlib.closing(notes(database, worker_id)) as answers:
            next(answers)
            told.know()
            listener.look()
            for answer in answers:
                told.pass_on(answer)
                if stopped.is_set():
                    return
                if answer:
                    time.sleep(_GATHER_SECONDS)


class _Told:
    """Reads what notes are about, and passes it on."""

    def __init__(
        self, database: Database[dict[str, Any]], worker_id: str, listener: Listener
    ) -> None:
        self._workers = database["workers"]
        self._jobs = database["jobs"]
        self._worker_id = worker_id
        self._listener = listener
        self._known_at = 0.0

    def know(self) -> None:
        """Read the worker."""
        self._known_at = time.monotonic()
        document = self._workers.find_one({"_id": self._worker_id})
        self._listener.know(to_record(Worker, document) if document else None)

    def pass_on(self, answer: Sequence[Mapping[str, Any]]) -> None:
        """Pass on the notes of one answer, in their order."""
        for is_offer, some in itertools.groupby(answer, key=lambda note: "job" in note):
            if is_offer:
                # One that was left anew because its write was tried again counts once.
                self._offer({note["job"] for note in some})
            else:
                self.know()
        # A note may have been lost.
        if time.monotonic() > self._known_at + _KNOWN_SECONDS:
            self.know()

    def _offer(self, job_ids: Collection[str]) -> None:
        found = self._found(job_ids)
        until = time.monotonic() + _ARRIVAL_SECONDS
        while len(found) < len(job_ids) and time.monotonic() < until:
            # A job is inserted while its note is on its way.
            time.sleep(_ARRIVAL_STEP_SECONDS)
            found = self._found(job_ids)
        for document in found:
            if document["status"] == JobStatus.QUEUED:
                self._listener.offer(to_record(Job, document))

    def _found(self, job_ids: Collection[str]) -> list[dict[str, Any]]:
        return list(self._jobs.find({"_id": {"$in": list(job_ids)}}).sort("_id"))
