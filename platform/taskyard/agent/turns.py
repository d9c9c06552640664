"""Jobs that are this agent's and wait for their place on it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable

from taskyard.agent.admission import Admission
from taskyard.agent.held import Held
from taskyard.jobs.model import Job
from taskyard.workers.places import needs_no_more

#: How long a job waits for a place that it was expected to find free: then it is better queued.
TURN_SECONDS = 1.0


class Turns:
    """A queue, first come first served, in which a job that does not fit holds up nobody."""

    def __init__(self) -> None:
        self._waiting: list[Held] = []
        #: Those that are bound to what runs: they begin when that is over, if not before.
        self._followers: dict[str, Held] = {}
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

    def remove(self, held: Held) -> None:
        """It waits no more, if it did."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(held)

    def bind(self, lead: Held) -> Held | None:
        """The first of those that could have the place of ``lead`` as it is over, now bound to it.
        It waits on, in case that another is free before.
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
        """What is bound to the job of this key."""
        return self._followers.get(key)

    def unbind(self, held: Held) -> None:
        """It is bound to none any more."""
        self._followers.pop(held.lead, None)
        held.lead = ""

    def step_aside(self, held: Held) -> None:
        """It waits no more, and what is bound to it comes in its stead."""
        lead = held.lead
        self.remove(held)
        self.unbind(held)
        if behind := self._followers.pop(held.key, None):
            behind.lead = lead
            self._followers[lead] = behind

    def count(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def jobs(self) -> list[Job]:
        """The jobs that wait."""
        with self._lock:
            return [held.job for held in self._waiting]
