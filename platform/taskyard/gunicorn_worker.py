"""Gunicorn's threaded worker, whose threads wait a moment for a connection's next request."""

from __future__ import annotations

import select
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

#: A client that sends one request after another sends the next within this time. To wait longer
#: would keep threads from other connections for little gain.
LINGER_MS = 5


class LingeringWorker(ThreadWorker):  # type: ignore[misc] # gunicorn publishes no types
    """Answers a request that follows closely on the same thread.

    Gunicorn itself gives a connection back to its main thread after each request, which hands it
    to a thread again: two changes of thread and three system calls more, a quarter of what a
    request costs gunicorn.
    """

    def handle(self, conn: Any) -> Any:
        """Handle requests of one connection until it pauses; gunicorn goes on from there."""
        while True:
            outcome = super().handle(conn)
            if outcome is not True or not self.alive or not _follows(conn.sock):
                return outcome


def _follows(connection: Any) -> bool:
    """Whether the client sends more (or closes) at once."""
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(LINGER_MS))
