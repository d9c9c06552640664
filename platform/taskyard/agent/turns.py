"""The queue of jobs that this agent holds and that wait for a place on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from taskyard.agent.admission import Admission
from taskyard.agent.held import Held
from taskyard.jobs.model import Job
from taskyard.workers.places import needs_no_more

#: How long a job waits for a place that it was expected to find free; then it goes back to the
#: queue.
TURN_SECONDS = 1.0


class Turns:
    """A queue, first come first served, in which a job that does not fit holds up nobody."""

    def __init__(self) -> None:
        self._waiting: list[Held] = []
        #: Jobs bound to a lead, by its key: each begins when its lead is over, if not before.
        self._followers: dict[str, Held] = {}
        self._lock = threading.Lock()

    def join(self, held: Iterable[Held]) -> None:
        """Have jobs wait for a place from now on."""
        with self._lock:
            self._waiting.extend(held)

    def admitted(self, admission: Admission) -> list[Held]:
        """Admit the jobs that have a place now; remove and return them."""
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
        """Remove and return the jobs that have waited for too long, by the monotonic clock."""
        with self._lock:
            late = [held for held in self._waiting if now - held.waits_since > TURN_SECONDS]
            for held in late:
                self._waiting.remove(held)
        return late

    def remove(self, held: Held) -> None:
        """Remove a job, if it waits."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(held)

    def bind(self, lead: Held) -> Held | None:
        """Bind the first job that fits in the place of ``lead`` to that; return it, if any.

        The job waits on, in case another place is free before.
        """
        with self._lock:
            for held in self._waiting:
                plain = held.started and not held.lead and not held.job.has_input
                if plain and needs_no_more(held.job, lead.job):
                    held.lead = lead.key
                    self._followers[lead.key] = held
                    return held
        return None

    def follower(self, key: str) -> Held | None:
        """Return the job that is bound to the lead of this key."""
        return self._followers.get(key)

    def unbind(self, held: Held) -> None:
        """Release a job from its lead."""
        self._followers.pop(held.lead, None)
        held.lead = ""

    def step_aside(self, held: Held) -> None:
        """Remove a follower; the job that is bound to it takes its place."""
        lead = held.lead
        self.remove(held)
        self.unbind(held)
        if behind := self._followers.pop(held.key, None):
            behind.lead = lead
            self._followers[lead] = behind

    def count(self) -> int:
        """Return how many jobs wait."""
        return len(self._waiting)

    def jobs(self) -> list[Job]:
        """Return the jobs that wait."""
        with self._lock:
            return [held.job for held in self._waiting]
