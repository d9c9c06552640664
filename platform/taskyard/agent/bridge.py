"""Keeps an agent's jobs alive through an election, and lets them end when the agent is cut off.

It has its own thread, because presence may hang in a call to a primary that no longer answers.
"""

from __future__ import annotations

import threading
import time

from taskyard import events
from taskyard.agent.attempt import fence
from taskyard.agent.jobs import Jobs
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.store.reach import Reach

#: Pause before a failed renewal is tried again, and between two checks whether jobs need extending.
#: Both are shorter where cancels are looked for more often.
RETRY_SECONDS = 0.5

#: How old the driver's knowledge of the members may be.
_MONITOR_SECONDS = 2.0


class Bridge:
    """Extends running jobs while no renewal can be written and nobody else can write either.

    After such an outage no lease is expired until one full lease has passed since writes became
    possible again (``scheduler.timeouts``), and what is extended here ends before that.
    """

    def __init__(self, store: Store, settings: Settings, jobs: Jobs) -> None:
        self._store = store
        self._settings = settings
        self._jobs = jobs
        self._renewed_at = time.monotonic()
        self._bridging = False
        self._pace_seconds = min(RETRY_SECONDS, settings.cancel_poll_seconds)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bridge", daemon=True)

    def start(self) -> None:
        """Begin to watch for renewals that are overdue."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching."""
        self._stopped.set()

    def renewed(self) -> None:
        """Note that the leases were just renewed."""
        self._renewed_at = time.monotonic()
        self._bridging = False

    def _run(self) -> None:
        while not self._stopped.wait(self._pace_seconds):
            overdue = time.monotonic() - self._renewed_at - self._settings.renewal_seconds
            if overdue > self._pace_seconds and self._jobs.leases():
                self._extend_if_nobody_can_write()

    def _extend_if_nobody_can_write(self) -> None:
        """Extend running jobs if the set is in an election.

        An agent that is cut off extends nothing: the keeper ends its jobs before their leases.
        """
        interval = self._settings.timeouts_tick_seconds
        # Longer than the gap between sweeps that makes the next one wait, whatever monitors missed.
        silence_seconds = max(3 * interval, 2 * interval + _MONITOR_SECONDS)
        if self._store.reach(silence_seconds=silence_seconds) is not Reach.ELECTION:
            return
        if not self._bridging:
            events.warn("agent.election", jobs=len(self._jobs.leases()))
            self._bridging = True
        until = fence(time.monotonic(), self._settings.lease_seconds)
        self._jobs.extend(self._jobs.leases(), until)
