"""Read what waits for changes, answer by answer: PyMongo's cursors do not show where one ends."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

from bson import Int64
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events

Document = dict[str, Any]

#: How long the server waits for changes before it sends an empty answer.
AWAIT_MS = 3000

#: Pause before a broken stream is opened anew.
REOPEN_SECONDS = 0.5


def answers(
    database: Database[Document], source: str | int, stages: list[Document]
) -> Generator[list[Document], None, None]:
    """Yield the changes of each answer; ``source`` is a collection, or 1 for the database.

    The first list says that the stream is open: earlier changes are in none that follows. The
    iterator ends when the server ends the stream. A caller that stops early must close the
    iterator, which closes the stream. Raises PyMongoError.
    """
    with database.client.start_session() as session:
        command = partial(database.command, session=session)
        pipeline = [{"$changeStream": {}}, *stages]
        opened = command("aggregate", source, pipeline=pipeline, cursor={})["cursor"]
        yield from batches(command, opened)


def batches(
    command: Callable[..., dict[str, Any]], opened: Document
) -> Generator[list[Document], None, None]:
    """Yield the first batch of a cursor that was ``opened`` by a command of a session, and then
    each that comes, which may be empty. Closing the iterator early closes the cursor.
    """
    collection, cursor = opened["ns"].partition(".")[2], opened["id"]
    try:
        yield opened["firstBatch"]
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
    """Log why this stream broke: MongoDB ended it, or a change in it could not be read. The second
    is a defect of one change: the stream, once opened anew, goes on with later changes.
    """
    if isinstance(error, PyMongoError):
        events.warn(f"{stream}.interrupted", error=type(error).__name__)
    else:
        events.error(f"{stream}.failed", error)
