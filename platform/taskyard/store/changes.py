"""A change stream, followed answer by answer: a cursor of PyMongo does not show where one ends."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any

from bson import Int64
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events

Document = dict[str, Any]

#: How long the server waits for news before it answers that there are none.
AWAIT_MS = 3000

#: Pause before a stream that broke is opened anew.
REOPEN_SECONDS = 0.5


def answers(
    database: Database[Document], source: str | int, stages: list[Document]
) -> Generator[list[Document], None, None]:
    """The changes of each answer, none in the first: the stream is open, and what came before has
    told nobody. ``source`` is a collection, or 1 for the database. Ends when the server ends it.

    Whoever stops early closes the iterator, which closes the stream. Raises PyMongoError.
    """
    with database.client.start_session() as session:
        command = partial(database.command, session=session)
        pipeline = [{"$changeStream": {}}, *stages]
        opened = command("aggregate", source, pipeline=pipeline, cursor={})["cursor"]
        collection, cursor = opened["ns"].partition(".")[2], opened["id"]
        try:
            yield []
            while cursor:
                asking = {"collection": collection, "maxTimeMS": AWAIT_MS}
                answer = command("getMore", Int64(cursor), **asking)["cursor"]
                cursor = answer["id"]
                yield answer["nextBatch"]
        except GeneratorExit:
            if cursor:
                command("killCursors", collection, cursors=[Int64(cursor)])
            raise


def tell_broken(stream: str, error: Exception) -> None:
    """Tell why the stream of this name broke: MongoDB broke it off, or a change in it could not be
    read. That is a defect, and of one change: behind it others are told again.
    """
    if isinstance(error, PyMongoError):
        events.warn(f"{stream}.interrupted", error=type(error).__name__)
    else:
        events.error(f"{stream}.failed", error)
