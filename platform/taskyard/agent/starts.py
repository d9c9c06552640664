"""Begins jobs whose turn has come: in a free place, or as soon as another job's last line ends.

An agent has few places. If the end of a line had to be reported here before the next line is sent
to the keeper, the place would stand empty for as long as a short line runs. So the keeper is told
in advance which line follows (its follower), if a job waits that needs no more than the running one
(its lead).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

from taskyard.agent.admission import Admission
from taskyard.agent.arrivals import Arrivals
from taskyard.agent.endings import Endings
from taskyard.agent.held import Held
from taskyard.agent.loop import Loop
from taskyard.agent.preparation import Preparation
from taskyard.agent.turns import Turns

if TYPE_CHECKING:
    from taskyard.agent.running import Running


class Starts:
    """Begins jobs; called by the loop's thread alone."""

    def __init__(
        self,
        loop: Loop,
        helpers: Executor,
        turns: Turns,
        admission: Admission,
        preparation: Preparation,
        arrivals: Arrivals,
        endings: Endings,
        running: Running,
    ) -> None:
        self._loop = loop
        self._helpers = helpers
        self._turns = turns
        self._admission = admission
        self._preparation = preparation
        self._arrivals = arrivals
        self._endings = endings
        self._running = running
        #: Jobs whose last line runs, or is the next to run, and that have no follower yet.
        self._leads: dict[str, Held] = {}

    def advance(self) -> None:
        """Begin the jobs that have a place now, and choose followers for those that run."""
        for held in self._turns.admitted(self._admission):
            if held.lead:
                self._running.processes.start_now(held.key)
                self._begun(held)
            elif not held.started:
                self._helpers.submit(self._start, held)
            else:
                self._lay_out(held)
        for lead in list(self._leads.values()):
            self._choose(lead)

    def leads(self, held: Held) -> None:
        """Let another job follow this one, whose last line runs or is the next to run."""
        self._leads[held.key] = held
        self._choose(held)

    def leave(self, held: Held) -> bool:
        """Free the job's place for its follower, or for what fits; return whether it had one."""
        if not self._admission.leave(held.key):
            return False
        self._leads.pop(held.key, None)
        if follower := self._turns.follower(held.key):
            self._admission.admit(follower.key, follower.job)
            self._turns.remove(follower)
        self.advance()
        return True

    def over(self, key: str) -> None:
        """Note that a job's last line is over, so that its follower has begun."""
        if held := self._turns.follower(key):
            self._begun(held)

    def send_away(self, waiting: Iterable[Held], reason: str) -> None:
        """Give back these jobs, which do not wait for a place any more."""
        for held in waiting:
            if held.lead:
                self.withdraw(held, reason)
            else:
                self._endings.send_back(held, reason)

    def withdraw(self, held: Held, reason: str) -> None:
        """Keep a follower from beginning, unless it has begun by now."""
        held.unwanted = reason
        self._leads.pop(held.key, None)
        self._running.processes.withdraw(held.key)

    def failed(self, held: Held, reason: str, rest: str) -> None:
        """Give back a follower that has not begun and will not.

        ``rest``, unless empty, is why nothing can be spawned here now.
        """
        self._leads.pop(held.key, None)
        self._turns.step_aside(held)
        self._endings.send_back(held, held.unwanted or reason, rest=rest)

    def _start(self, held: Held) -> None:
        """Move the job to RUNNING; runs on a helper."""
        if self._preparation.start(held):
            self._loop.post(partial(self._lay_out, held))

    def _lay_out(self, held: Held) -> None:
        """Begin a RUNNING job that has its place: now, or when its input is there."""
        if not self._running.is_wanted(held):
            return
        if held.job.has_input:
            self._arrivals.expect(held, self._running.begin)
        elif attempt := self._preparation.lay_out(held):
            self._running.begin(held, attempt)

    def _choose(self, lead: Held) -> None:
        """Choose a follower for the lead, and then a follower for that follower."""
        if lead.key not in self._leads:
            return
        follower = self._turns.follower(lead.key) or self._bound(lead)
        if follower is None:
            return
        del self._leads[lead.key]
        if not lead.lead and follower.attempt and not follower.attempt.lines:
            self.leads(follower)

    def _bound(self, lead: Held) -> Held | None:
        """Bind a job to the lead and tell the keeper; return it, or None if there is none."""
        held = self._turns.bind(lead)
        if held is None:
            return None
        attempt = self._preparation.lay_out(held)
        if attempt is None or not self._running.spawn(held, attempt, after=lead.key):
            # Its failure is being reported: it waits no more.
            self._turns.step_aside(held)
            return None
        return held

    def _begun(self, held: Held) -> None:
        self._turns.unbind(held)
        if held.attempt:
            self._running.begun(held, held.attempt)
