"""Join the writes of several threads: items that come while a write is under way share the next.

A write of a few documents costs the server and the driver little more than a write of one
document, and waits for the same journal. No thread waits for others: the first writes at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from taskyard.store.failures import is_unavailable, unconfirmed

T = TypeVar("T")

#: A thread that has waited this long for the write before it writes alone, so that it does not
#: wait twice for a slow server or for the search for a primary.
PATIENCE_SECONDS = 0.3


class _Turn(Generic[T]):
    """One item, for the thread that brought it."""

    def __init__(self, item: T) -> None:
        self.item = item
        #: Released when this thread is to write for a group, or another's write for it is over.
        self.asleep = threading.Lock()
        self.asleep.acquire()
        #: The turns that this thread writes, its own among them; None if another writes its turn.
        self.group: list[_Turn[T]] | None = None
        self.written = False
        self.failure: BaseException | None = None


class Together(Generic[T]):
    """Calls ``write`` with all items that came while the previous call was under way.

    ``write`` must raise unless every item is known to be written, and must accept an item that is
    written already.
    """

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[_Turn[T]] = []
        self._writing = False

    def __call__(self, item: T) -> None:
        """Have ``item`` written; returns once it is. Raises StoreUnavailable when it is not known
        whether it is, else what ``write`` raises for it.
        """
        turn = _Turn(item)
        if self._is_first(turn) or self._is_to_lead(turn):
            self._lead(turn)
        if turn.written:
            return
        if turn.failure is not None and is_unavailable(turn.failure):
            raise unconfirmed() from turn.failure
        # It waited too long, or its group was refused for one item: each item is now tried alone.
        self._write([item])

    def _is_first(self, turn: _Turn[T]) -> bool:
        """Whether no write is under way; if one is, the turn waits from now on."""
        with self._lock:
            if self._writing:
                self._waiting.append(turn)
                return False
            self._writing = True
            turn.group = [turn]
            return True

    def _is_to_lead(self, turn: _Turn[T]) -> bool:
        """Wait until the turn may go on; returns whether it has to write for its group."""
        if not turn.asleep.acquire(timeout=PATIENCE_SECONDS):
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    return False
            turn.asleep.acquire()
        return turn.group is not None

    def _lead(self, turn: _Turn[T]) -> None:
        """Write the items of the group, then let the next group begin."""
        group = turn.group or [turn]
        # A turn that is in its own group would keep the item until the garbage collector comes.
        turn.group = None
        try:
            self._write([each.item for each in group])
        except BaseException as error:
            for each in group:
                each.failure = error
        else:
            for each in group:
                each.written = True
        self._hand_on()
        for each in group:
            if each is not turn:
                each.asleep.release()

    def _hand_on(self) -> None:
        with self._lock:
            group, self._waiting = self._waiting, []
            self._writing = bool(group)
        if group:
            group[0].group = group
            group[0].asleep.release()
