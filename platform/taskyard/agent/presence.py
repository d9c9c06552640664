"""An agent's presence: it registers, heartbeats, renews its leases and sees cancels.

One thread, so that a slow job never delays a heartbeat. What it renews it also tells the keeper,
which ends what was not renewed in time: the jobs of an agent that is cut off or stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Protocol

from taskyard import __version__, events
from taskyard.agent.admission import Capacity
from taskyard.agent.attempt import fence
from taskyard.agent.host import Host
from taskyard.context import Platform
from taskyard.errors import Gone, NotFound, StaleAttempt, TaskyardError
from taskyard.jobs.model import Lease, lease_of
from taskyard.jobs.states import JobStatus
from taskyard.store.client import UNAVAILABLE


class Jobs(Protocol):
    """What presence asks of the runner."""

    def leases(self) -> dict[str, str]:
        """Lease id -> job id of what really runs."""

    def offer(self, lease: Lease) -> None:
        """Run an assigned job, unless it runs already."""

    def extend(self, lease_ids: Sequence[str], until: float) -> None:
        """Let what runs under these leases run until then (monotonic)."""

    def cancel(self, lease_id: str) -> None:
        """Stop a job that was asked to be cancelled."""

    def abandon(self, lease_id: str) -> None:
        """Kill a job whose lease is lost; nothing of it is reported."""


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
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Register, then heartbeat until stopped."""
        self.register()
        self._thread.start()

    def register(self) -> None:
        """Begin a new boot: what an earlier one held is no longer renewed by anybody."""
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
            "isolation": "process group",
            **self._load(),
        }
        self._store.workers.register(self.worker_id, facts, now=self._store.clock.now())
        self._platform.nudge("register")

    def refuse_work(self) -> None:
        """Have nothing more assigned, before the agent drains."""
        try:
            self._store.workers.drain(self.worker_id, draining=True, now=self._store.clock.now())
        except (TaskyardError, *UNAVAILABLE) as error:
            events.warn("agent.refuse_failed", error=type(error).__name__)

    def stop(self) -> None:
        """Heartbeat no more and say good-bye."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=self._settings.renewal_seconds)
        try:
            self._store.workers.leave(
                self.worker_id, self._host.boot_id, now=self._store.clock.now()
            )
        except UNAVAILABLE as error:
            events.warn("agent.leave_failed", error=type(error).__name__)

    def _run(self) -> None:
        while not self._stopped.wait(self._settings.cancel_poll_seconds):
            try:
                self._step()
            except UNAVAILABLE as error:
                events.warn("agent.store_unavailable", error=type(error).__name__)
                self._hold_on()

    def _step(self) -> None:
        """Heartbeat when it is due, and look for cancels in between."""
        if time.monotonic() >= self._beat_due:
            self._beat()
            self._beat_due = time.monotonic() + self._settings.renewal_seconds
        elif running := self._jobs.leases():
            for lease_id in self._store.queries.cancels_among(list(running.values())):
                self._jobs.cancel(lease_id)

    def _beat(self) -> None:
        try:
            self._store.workers.heartbeat(
                self.worker_id,
                self._load(),
                now=self._store.clock.now(),
                boot_id=self._host.boot_id,
            )
        except NotFound:
            self.register()
        except (Gone, StaleAttempt) as refusal:
            self._give_up(type(refusal).__name__)
            return
        self._renew()
        for job in self._store.queries.held_by(self.worker_id, JobStatus.ASSIGNED):
            self._jobs.offer(lease_of(job))

    def _renew(self) -> None:
        """Renew the leases of what really runs; what is not renewed is lost."""
        before = time.monotonic()
        running = self._jobs.leases()
        settings = self._settings
        held = self._store.jobs.renew(
            self.worker_id,
            list(running),
            now=self._store.clock.now(),
            lease=timedelta(seconds=settings.lease_seconds),
            grace=timedelta(seconds=settings.kill_grace_seconds + settings.finish_grace_seconds),
        )
        self._jobs.extend(
            [renewed.lease_id for renewed in held], fence(before, settings.lease_seconds)
        )
        for renewed in held:
            if renewed.cancel_requested:
                self._jobs.cancel(renewed.lease_id)
        for lease_id in set(running) - {renewed.lease_id for renewed in held}:
            self._jobs.abandon(lease_id)

    def _hold_on(self) -> None:
        """With members of the set but no primary the jobs go on: nobody expires anything until
        one full lease has passed since writes became possible again (``scheduler.timeouts``).

        Cut off from the set, nothing is done: the keeper ends the jobs before their leases end.
        """
        if self._store.reachable():
            until = fence(time.monotonic(), self._settings.lease_seconds)
            self._jobs.extend(list(self._jobs.leases()), until)

    def _give_up(self, reason: str) -> None:
        """This boot is over: deleted, or another process registered under its id."""
        events.warn("agent.gave_up", worker=self.worker_id, reason=reason)
        self._abandon_all()

    def _abandon_all(self) -> None:
        for lease_id in self._jobs.leases():
            self._jobs.abandon(lease_id)

    def _load(self) -> dict[str, Any]:
        return {
            "cpuUsage": self._host.cpu_usage_percent(),
            "ramFreeMb": self._host.ram_free_mb(),
        }
