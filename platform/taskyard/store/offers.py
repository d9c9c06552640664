"""The change stream of one agent: new jobs that are offered to it and changes of its own worker
document, in the order in which they were written.

As every wake-up, an offer is a hint: the next pass places jobs that were missed while the stream
was down.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pymongo import MongoClient
from pymongo.database import Database

from taskyard.documents import to_record
from taskyard.jobs.model import Job
from taskyard.store.changes import REOPEN_SECONDS, answers, tell_broken
from taskyard.workers.model import Worker

#: Pause after an answer with changes: the changes that follow closely come in one answer.
_GATHER_SECONDS = 0.005

OpenClient = Callable[[], MongoClient[dict[str, Any]]]


class Listener(Protocol):
    """Receives what the stream says, on the stream's thread."""

    def offer(self, job: Job) -> None:
        """A job is offered."""

    def look(self) -> None:
        """The stream is open; jobs may have been offered before, without notice."""

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

        def know() -> None:
            document = database["workers"].find_one({"_id": worker_id})
            listener.know(to_record(Worker, document) if document else None)

        with contextlib.closing(answers(database, 1, _stages(worker_id))) as followed:
            next(followed)
            know()
            listener.look()
            for changes in followed:
                for change in changes:
                    if change["ns"]["coll"] == "workers":
                        know()
                    else:
                        listener.offer(to_record(Job, change["fullDocument"]))
                if stopped.is_set():
                    return
                if changes:
                    time.sleep(_GATHER_SECONDS)


def _stages(worker_id: str) -> list[dict[str, Any]]:
    offer = {
        "ns.coll": "jobs",
        "operationType": "insert",
        "fullDocument.offeredTo": worker_id,
    }
    own = {"ns.coll": "workers", "documentKey._id": worker_id}
    told = {
        "ns.coll": 1,
        "fullDocument": {"$cond": [{"$eq": ["$ns.coll", "jobs"]}, "$fullDocument", None]},
    }
    return [{"$match": {"$or": [offer, own]}}, {"$project": told}]
