"""Jobs that are this agent's and wait for their place on it."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from taskyard.agent.admission import Admission
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

    def admitted(self, admission: Admission) -> list[Held]:
        """Those that have a place now; they wait no more."""
        admitted: list[Held] = []
        with self._lock:
            for held in list(self._waiting):
                if not admission.has_room:
                    break
                if admission.admit(held.key, held.job):
                    self._waiting.remove(held)
                    admitted.append(held)
        return admitted

    def overdue(self, now: float) -> list[Held]:
        """Those that have waited for too long, by the monotonic clock; they wait no more."""
        with self._lock:
            late = [held for held in self._waiting if now - held.waits_since > TURN_SECONDS]
            for held in late:
                self._waiting.remove(held)
        return late

    def count(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def jobs(self) -> list[Job]:
        """The jobs that wait."""
        with self._lock:
            return [held.job for held in self._waiting]
