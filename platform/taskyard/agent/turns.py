"""Jobs that are this agent's and wait for their place on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from taskyard.agent.held import Held
from taskyard.jobs.model import Job

#: How long a job waits for a place that it was expected to find free: then it is better queued.
TURN_SECONDS = 1.0


class Turns:
    """A line of jobs, first come first served, but that none holds up those that fit."""

    def __init__(self) -> None:
        self._waiting: list[Held] = []
        self._lock = threading.Lock()

    def join(self, held: Iterable[Held]) -> None:
        """Wait for a place from now on."""
        with self._lock:
            self._waiting.extend(held)

    def take(self, admit: Callable[[Held], bool]) -> list[Held]:
        """Those that are admitted; they wait no more."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
            admitted: list[Held] = []
            for held in waiting:
                (admitted if admit(held) else self._waiting).append(held)
            return admitted

    def count(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def jobs(self) -> list[Job]:
        """The jobs that wait."""
        with self._lock:
            return [held.job for held in self._waiting]
