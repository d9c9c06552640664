"""The queues that a connection has to look at, and the bell that wakes its loop."""

from __future__ import annotations

import selectors
import socket
import threading

from bson import ObjectId

#: The only message that is new in a queue, or None when there may be others.
Announced = ObjectId | None


class Inbox:
    """Queues that may have new messages. Any thread may wake the inbox; one thread looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dirty: dict[str, Announced] = {}
        self._active: set[str] = set()
        self._later = False
        self._bell, self._ring = socket.socketpair()
        self._bell.setblocking(False)
        self._ring.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell, selectors.EVENT_READ)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a queue may have new messages."""
        return self._bell.fileno()

    @property
    def dirty(self) -> frozenset[str]:
        """Queues to look at."""
        with self._lock:
            return frozenset(self._dirty)

    @property
    def consumed(self) -> frozenset[str]:
        """The queues that are consumed."""
        with self._lock:
            return frozenset(self._active)

    def consume(self, queues: set[str]) -> None:
        """Set the queues that are consumed from now on, and mark all of them to be looked at."""
        with self._lock:
            self._active = set(queues)
            self._dirty = dict.fromkeys(queues)
        self.ring()

    def wake(
        self, queue: str | None, message: ObjectId | None = None, *, later: bool = False
    ) -> bool:
        """Mark the queue in which the message is new, or all queues if ``queue`` is None; returns
        whether any of them is consumed here.

        A message that is due only ``later`` cannot be claimed yet and marks nothing: the consumer
        asks when it will be due.
        """
        with self._lock:
            new = self._active if queue is None else self._active & {queue}
            self._later |= later and bool(new)
            for each in new if not later or queue is None else ():
                self._dirty[each] = None if each in self._dirty else message
        if new:
            self.ring()
        return bool(new)

    def mark(self, queue: str) -> None:
        """Mark a queue that may have more messages. No bell rings: the caller looks again."""
        with self._lock:
            self._dirty[queue] = None

    def look(self, queue: str) -> Announced:
        """Unmark a queue before a claim; returns the only message that is new in it, or None."""
        with self._lock:
            return self._dirty.pop(queue, None)

    def something_later(self) -> bool:
        """Return whether a message that becomes due later was announced since the last call."""
        with self._lock:
            later, self._later = self._later, False
            return later

    def ring(self) -> None:
        """Wake the loop."""
        try:
            self._ring.send(b"!")
        except OSError:
            return  # the bell is full, so it is heard anyway; or closed

    def hear(self) -> None:
        """Silence the bell."""
        try:
            while self._bell.recv(4096):
                pass
        except OSError:
            return

    def wait(self, seconds: float) -> None:
        """Wait until the bell rings, for at most so many seconds."""
        if self._selector.select(seconds):
            self.hear()

    def close(self) -> None:
        """Close the descriptors."""
        self._selector.close()
        self._bell.close()
        self._ring.close()
