"""Writes of several threads made as one: whoever comes while one is under way joins the next.

A write of a few documents costs the server and the driver little more than one of a single
document, and waits for the same journal. Nobody waits for company: the first writes at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from taskyard.store.failures import is_unavailable, unconfirmed

T = TypeVar("T")

#: Whoever has waited so long for the write before it writes alone: a server that is slow, or that
#: is looked for, is not waited for twice.
PATIENCE_SECONDS = 0.3


class _Turn(Generic[T]):
    """One item, and the thread that brought it."""

    def __init__(self, item: T) -> None:
        self.item = item
        #: Released when this one is to write for a group, or when another has written it.
        self.asleep = threading.Lock()
        self.asleep.acquire()
        #: Whom this one writes for, itself among them; None for one that others write for.
        self.group: list[_Turn[T]] | None = None
        self.written = False
        self.failure: BaseException | None = None


class Together(Generic[T]):
    """Calls ``write`` with the items of all who came while the call before was under way.

    ``write`` raises if it is not known of each item that it is written; it may be called again
    with an item that is.
    """

    def __init__(self, write: Callable[[Sequence[T]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[_Turn[T]] = []
        self._writing = False

    def __call__(self, item: T) -> None:
        """Have ``item`` written; returns once it is. Raises what ``write`` raises for it."""
        turn = _Turn(item)
        if self._is_first(turn) or self._is_to_lead(turn):
            self._lead(turn)
        if turn.written:
            return
        if turn.failure is not None and is_unavailable(turn.failure):
            raise unconfirmed() from turn.failure
        # It came too late, or one of its group is refused: each learns what becomes of its own.
        self._write([item])

    def _is_first(self, turn: _Turn[T]) -> bool:
        """Whether nothing is under way; if something is, the turn waits from now on."""
        with self._lock:
            if self._writing:
                self._waiting.append(turn)
                return False
            self._writing = True
            turn.group = [turn]
            return True

    def _is_to_lead(self, turn: _Turn[T]) -> bool:
        """Wait for the turn; whether it is this one that writes for its group."""
        if not turn.asleep.acquire(timeout=PATIENCE_SECONDS):
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                    return False
            turn.asleep.acquire()
        return turn.group is not None

    def _lead(self, turn: _Turn[T]) -> None:
        """Write for the group, and let the next one write."""
        group = turn.group or [turn]
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
