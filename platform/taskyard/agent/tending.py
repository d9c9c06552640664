"""Does what falls due while jobs are held: timeouts, signals, output to store, ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from taskyard import events
from taskyard.agent.attempt import Attempt
from taskyard.agent.endings import Endings
from taskyard.agent.held import Held
from taskyard.agent.pump import LINGER_SECONDS, Pump
from taskyard.agent.running import Running
from taskyard.agent.turns import Turns
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job
from taskyard.jobs.retry import Cause
from taskyard.jobs.transition import Outcome
from taskyard.settings import Settings

#: Least time between two looks at what is due.
_TEND_SECONDS = 0.005

#: Most time between two looks while a job is held, however long output is gathered.
_NAP_SECONDS = 0.05


class Tending:
    """Tends the jobs that are held, in each round of the loop."""

    def __init__(
        self,
        running: Running,
        pump: Pump,
        endings: Endings,
        turns: Turns,
        held: Mapping[str, Held],
        send_away: Callable[[Sequence[Held]], None],
        settings: Settings,
    ) -> None:
        """``held`` are all jobs of the runner; ``send_away`` gives jobs back."""
        self._running = running
        self._pump = pump
        self._endings = endings
        self._turns = turns
        self._held = held
        self._send_away = send_away
        self._settings = settings
        self._tend_at = 0.0
        self._put_off = False

    def nap(self) -> float | None:
        """Return the seconds until the next look is due; None while nothing is held."""
        if not self._held:
            return None
        now = time.monotonic()
        if self._put_off:
            return max(0.0, self._tend_at - now)
        printed = any(h.attempt and h.attempt.output.pending_bytes for h in [*self._held.values()])
        if printed:
            return LINGER_SECONDS
        return min(_NAP_SECONDS, self._settings.output_flush_seconds / 2)

    def tend(self) -> None:
        """Do whatever is due."""
        now = time.monotonic()
        self._put_off = now < self._tend_at
        if self._put_off:
            return
        self._tend_at = now + _TEND_SECONDS
        for held in list(self._held.values()):
            if held.attempt is not None and held.begun_at:
                self._tend_guarded(held, held.attempt, now)
            elif held.fetch and now >= held.fetch.deadline:
                self._endings.miss(held, _late(held.job))
        if self._turns.count():
            self._send_away(self._turns.overdue(now))

    def _tend_guarded(self, held: Held, attempt: Attempt, now: float) -> None:
        """Tend one attempt; an unexpected error ends this attempt and not the others."""
        try:
            self._tend_one(held, attempt, now)
        except Exception as error:
            events.error("agent.attempt_failed", error, job=held.job.job_id)
            attempt.stopping = Outcome(cause=Cause.AGENT, detail=f"agent error: {error!r}")
            attempt.flushing = False
            self._running.kill(held, attempt)
            self._endings.finish(held, attempt)

    def _tend_one(self, held: Held, attempt: Attempt, now: float) -> None:
        if now >= attempt.deadline and attempt.drained_by is None:
            attempt.stop(_late(attempt.job), now, self._settings.kill_grace_seconds)
        number = attempt.signal_due(now)
        if number is not None:
            self._running.processes.signal(held.key, number)
        self._pump.flush(attempt, now)
        if attempt.waits and not (attempt.paused and attempt.goes_on):
            self._running.go_on(held, attempt)
        drained_by = attempt.drained_by
        if drained_by is not None and (not attempt.pipes or now >= drained_by):
            self._endings.finish(held, attempt)


def _late(job: Job) -> Outcome:
    return Outcome(cause=Cause.TIMEOUT, detail=lifecycle.timed_out(job))
