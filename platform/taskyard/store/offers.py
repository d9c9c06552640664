"""New jobs that are offered to one agent, as MongoDB tells of them: one change stream.

Like every wake-up a hint: what is missed while the stream is down is placed by the next pass.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events
from taskyard.documents import to_record
from taskyard.jobs.model import Job
from taskyard.store.changes import answers

_REOPEN_SECONDS = 0.5

#: After news the stream is left alone for so long: what follows closely comes in one answer.
_GATHER_SECONDS = 0.005

OpenClient = Callable[[], MongoClient[dict[str, Any]]]


class OfferStream:
    """Tells agents of the jobs that are offered to them."""

    def __init__(self, open_client: OpenClient, database: Database[dict[str, Any]]) -> None:
        self._open_client = open_client
        self._database_name = database.name
        self._codec_options = database.codec_options

    def listen(
        self, worker_id: str, offered: Callable[[Job], None], missed: Callable[[], None]
    ) -> Callable[[], None]:
        """Call ``offered`` for each job from now on, and ``missed`` when there may have been
        others; on a thread of its own, until what is returned is called.
        """
        stopped = threading.Event()

        def run() -> None:
            client = self._open_client()
            while not stopped.is_set():
                try:
                    self._follow(client, worker_id, offered, missed, stopped)
                except PyMongoError as error:
                    events.warn("offers.interrupted", error=type(error).__name__)
                    stopped.wait(_REOPEN_SECONDS)
            client.close()

        threading.Thread(target=run, name="offers", daemon=True).start()
        return stopped.set

    def _follow(
        self,
        client: MongoClient[dict[str, Any]],
        worker_id: str,
        offered: Callable[[Job], None],
        missed: Callable[[], None],
        stopped: threading.Event,
    ) -> None:
        database = client.get_database(self._database_name, codec_options=self._codec_options)
        ours = {"operationType": "insert", "fullDocument.offeredTo": worker_id}
        stages: list[dict[str, Any]] = [{"$match": ours}, {"$project": {"fullDocument": 1}}]
        with contextlib.closing(answers(database, "jobs", stages)) as followed:
            next(followed)
            missed()
            for changes in followed:
                for change in changes:
                    offered(to_record(Job, change["fullDocument"]))
                if stopped.is_set():
                    return
                if changes:
                    time.sleep(_GATHER_SECONDS)
