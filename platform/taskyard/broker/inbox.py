"""What a connection has to look at, and the bell that wakes its loop."""

from __future__ import annotations

import selectors
import socket
import threading

from bson import ObjectId

#: The one message that is new in a queue, or None when it may be any.
Announced = ObjectId | None


class Inbox:
    """Queues that may have something new. Any thread may wake it; one looks."""

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
        """Readable when something may be new."""
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
        """The queues that are consumed from now on; all of them are to be looked at."""
        with self._lock:
            self._active = set(queues)
            self._dirty = dict.fromkeys(queues)
        self.ring()

    def wake(
        self, queue: str | None, message: ObjectId | None = None, *, later: bool = False
    ) -> bool:
        """The message is new in the queue, or something in any; returns whether that is ours.

        One that is due only ``later`` is nothing to claim yet: when it will be is to be asked.
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
        """There may be more in the queue; whoever marks it looks again."""
        with self._lock:
            self._dirty[queue] = None

    def look(self, queue: str) -> Announced:
        """The queue is looked at now; returns what was announced since the last look."""
        with self._lock:
            return self._dirty.pop(queue, None)

    def something_later(self) -> bool:
        """Whether something was announced since the last call that becomes due by itself."""
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
        """Until the bell rings, at most so long."""
        if self._selector.select(seconds):
            self.hear()

    def close(self) -> None:
        """Give back the descriptors."""
        self._selector.close()
        self._bell.close()
        self._ring.close()
