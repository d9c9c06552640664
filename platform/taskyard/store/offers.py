"""New jobs that are offered to one agent, as MongoDB tells of them: one change stream.

Like every wake-up a hint: what is missed while the stream is down is placed by the next pass.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bson import Int64
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events
from taskyard.documents import to_record
from taskyard.jobs.model import Job

_REOPEN_SECONDS = 0.5

#: How long the server waits for news before it answers that there are none.
_AWAIT_MS = 1000

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
        """Follow the stream by answers. A cursor of PyMongo does not show where one ends."""
        database = client.get_database(self._database_name, codec_options=self._codec_options)
        ours = {"operationType": "insert", "fullDocument.offeredTo": worker_id}
        stages = [{"$changeStream": {}}, {"$match": ours}, {"$project": {"fullDocument": 1}}]
        with client.start_session() as session:
            command = partial(database.command, session=session)
            opened = command("aggregate", "jobs", pipeline=stages, cursor={})
            missed()
            cursor = opened["cursor"]["id"]
            while cursor and not stopped.is_set():
                asking = {"collection": "jobs", "maxTimeMS": _AWAIT_MS}
                answer = command("getMore", Int64(cursor), **asking)["cursor"]
                cursor = answer["id"]
                for change in answer["nextBatch"]:
                    offered(to_record(Job, change["fullDocument"]))
                if answer["nextBatch"]:
                    time.sleep(_GATHER_SECONDS)
