"""Notes to agents, left in a few small capped collections at which the agents wait.

A change stream is woken by every write to the server, whatever it asks for; those of a hundred
agents took several times the CPU of the jobs themselves. Who waits at a capped collection is woken
by its writes alone (``docs/decisions/0015-mailboxes.md``).

As every wake-up, a note is a hint. It holds ids and no data: nothing removes what is in a capped
collection before it is full.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any

import pymongo
from pymongo import WriteConcern
from pymongo.database import Database
from pymongo.errors import PyMongoError

from taskyard import events
from taskyard.store.changes import batches

Document = dict[str, Any]

#: The mailboxes. A note wakes the agents that share one.
BOXES = tuple(f"mail.{number}" for number in range(8))

#: The size of a mailbox; some thousand notes. An agent that is further behind looks anew.
BOX_BYTES = 256 * 1024

#: How long it may take to leave notes. A submit goes on without them, and may wait for a primary
#: by itself.
LEAVE_SECONDS = 0.5


class Mailboxes:
    """Leaves notes to agents."""

    def __init__(self, database: Database[Document]) -> None:
        self._database = database

    def offer(self, offered: Iterable[tuple[str, str]]) -> None:
        """Tell workers of jobs that are offered to them: pairs of worker and job. Nobody waits for
        an answer: an offer is not worth a round trip of the submit.
        """
        self._leave(
            [{"to": worker_id, "job": job_id} for worker_id, job_id in offered], WriteConcern(w=0)
        )

    def tell(self, worker_ids: Iterable[str]) -> None:
        """Tell workers that their own documents have changed."""
        self._leave([{"to": worker_id} for worker_id in worker_ids], WriteConcern(w=1))

    def _leave(self, left: Iterable[Document], concern: WriteConcern) -> None:
        """Leave the notes. Errors of MongoDB are only logged: passes place what was offered, and
        agents also read their own documents every few seconds.
        """
        by_box: dict[str, list[Document]] = defaultdict(list)
        for note in left:
            by_box[_box_of(note["to"])].append(note)
        try:
            with pymongo.timeout(LEAVE_SECONDS):
                for box, some in by_box.items():
                    self._database.get_collection(box, write_concern=concern).insert_many(some)
        except PyMongoError as error:
            events.warn("offers.note_failed", error=type(error).__name__)


def notes(database: Database[Document], worker_id: str) -> Generator[list[Document], None, None]:
    """Yield the notes to a worker, answer by answer, with an empty list every few seconds.

    The first list may hold old notes. The iterator ends when the server ends the cursor. Raises
    PyMongoError.
    """
    box = _box_of(worker_id)
    with database.client.start_session() as session:
        command = partial(database.command, session=session)
        waiting = {"filter": {"to": worker_id}, "tailable": True, "awaitData": True}
        opened = command("find", box, **waiting)["cursor"]
        if not opened["id"]:
            # Nobody can wait at a mailbox that is empty.
            database[box].insert_one({"to": ""})
            opened = command("find", box, **waiting)["cursor"]
        yield from batches(command, opened)


def _box_of(worker_id: str) -> str:
    return BOXES[zlib.crc32(worker_id.encode()) % len(BOXES)]
