"""An agent's presence: it registers, heartbeats, renews its leases and sees cancels.

It has its own thread, so that a slow job never delays a heartbeat. It passes each renewal on to
the keeper, which kills jobs that were not renewed in time: those of an agent that is cut off or
stopped.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any

from taskyard import __version__, events
from taskyard.agent.admission import Capacity
from taskyard.agent.attempt import fence
from taskyard.agent.bridge import RETRY_SECONDS, Bridge
from taskyard.agent.host import Host
from taskyard.agent.jobs import Jobs
from taskyard.context import Platform
from taskyard.errors import Gone, NotFound, StaleAttempt, TaskyardError
from taskyard.jobs.model import lease_of
from taskyard.jobs.refusal import Write
from taskyard.jobs.states import JobStatus
from taskyard.store.failures import is_unavailable


class Presence:
    """Keeps the worker document and the leases of one agent alive."""

    def __init__(
        self, platform: Platform, worker_id: str, host: Host, capacity: Capacity, jobs: Jobs
    ) -> None:
        self._platform = platform
        self._store = platform.store
        self._settings = platform.settings
        self.worker_id = worker_id
        self._host = host
        self._capacity = capacity
        self._jobs = jobs
        self._stopped = threading.Event()
        self._beat_due = 0.0
        #: Whether this boot is over: the worker was deleted, or another process registered its id.
        self.is_over = False
        self._bridge = Bridge(self._store, self._settings, jobs)
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Heartbeat until stopped."""
        self._thread.start()
        self._bridge.start()

    def register(self) -> None:
        """Begin a new boot; nobody renews the leases of an earlier one any more."""
        settings, host = self._settings, self._host
        facts: dict[str, Any] = {
            "kind": "celery",
            "bootId": host.boot_id,
            "hostname": host.hostname,
            "os": host.os,
            "cpuCount": self._capacity.cpu_count,
            "ramTotalMb": self._capacity.ram_total_mb,
            "version": __version__,
            "labels": list(settings.labels),
            "maxJobs": self._capacity.max_jobs,
            "isolation": "process tree",
            **self._measured_load(),
        }
        self._store.workers.register(self.worker_id, facts, now=self._store.clock.now())
        self._platform.nudge("register")

    def refuse_work(self) -> None:
        """Mark the worker as draining, so that nothing more is assigned to it."""
        try:
            self._store.workers.drain(
                self.worker_id,
                draining=True,
                now=self._store.clock.now(),
                boot_id=self._host.boot_id,
            )
        except Exception as error:
            if not (isinstance(error, TaskyardError) or is_unavailable(error)):
                raise
            events.warn("agent.refuse_failed", error=type(error).__name__)

    def stop(self) -> None:
        """Stop the heartbeats, and mark the worker as offline."""
        self._stopped.set()
        self._bridge.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.renewal_seconds)
        try:
            self._store.workers.leave(
                self.worker_id, self._host.boot_id, now=self._store.clock.now()
            )
        except Exception as error:
            if not is_unavailable(error):
                raise
            events.warn("agent.leave_failed", error=type(error).__name__)

    def _run(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                self._step()
            except Exception as error:
                # Whatever it is, the agent goes on: without heartbeats it would lose all its jobs.
                if not is_unavailable(error):
                    events.error("agent.presence_failed", error)
                else:
                    events.warn("agent.store_unavailable", error=type(error).__name__)

    def _pause(self) -> float:
        """Return the seconds until the next look for cancels, or until the heartbeat if sooner."""
        left = self._beat_due - time.monotonic()
        return min(self._settings.cancel_poll_seconds, left if left > 0 else RETRY_SECONDS)

    def _step(self) -> None:
        """Heartbeat when it is due, and look for cancels in between."""
        if time.monotonic() >= self._beat_due:
            self._beat()
            self._beat_due = time.monotonic() + self._settings.renewal_seconds
        elif running := self._jobs.leases():
            asked = self._store.live.cancels_among([lease.job_id for lease in running])
            for lease in running:
                if lease.job_id in asked:
                    self._jobs.cancel(lease)

    def _beat(self) -> None:
        try:
            self._store.workers.heartbeat(
                self.worker_id,
                self._measured_load(),
                now=self._store.clock.now(),
                boot_id=self._host.boot_id,
            )
        except NotFound:
            self.register()
        except Gone:
            self._give_up("was deleted")
            return
        except StaleAttempt:
            self._give_up("was started anew")
            return
        self.is_over = False
        self._renew()
        for job in self._store.live.held_by(self.worker_id, JobStatus.ASSIGNED):
            self._jobs.run_assigned(lease_of(job))

    def _renew(self) -> None:
        """Renew the leases of the jobs that really run; abandon those that are not renewed."""
        before = time.monotonic()
        running = self._jobs.leases()
        settings = self._settings
        held = self._store.leases.renew(
            self.worker_id,
            running,
            now=self._store.clock.now(),
            lease=timedelta(seconds=settings.lease_seconds),
            grace=timedelta(seconds=settings.kill_grace_seconds + settings.finish_grace_seconds),
        )
        self._bridge.renewed()
        ours = [renewed.lease for renewed in held]
        self._jobs.extend(ours, fence(before, settings.lease_seconds))
        for renewed in held:
            if renewed.cancel_requested:
                self._jobs.cancel(renewed.lease)
        lost = set(running) - set(ours)
        for lease in lost:
            self._jobs.abandon(lease)
        # After all were abandoned: writing a note may take its time.
        for lease in lost:
            self._store.refusals.note(lease, Write.HEARTBEAT, now=self._store.clock.now())

    def _give_up(self, reason: str) -> None:
        """Stop all jobs and give them back at once, not only when their leases end."""
        if not self.is_over:
            events.warn("agent.gave_up", worker=self.worker_id, reason=reason)
        self.is_over = True
        self._jobs.give_back(f"its worker {reason}")

    def _measured_load(self) -> dict[str, Any]:
        return {
            "cpuUsage": self._host.cpu_usage_percent(),
            "ramFreeMb": self._host.ram_free_mb(),
        }
