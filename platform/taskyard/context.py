"""What web, scheduler and agent hold: the store, the settings, and how to start a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from taskyard import events
from taskyard.jobs.transition import Moment, Transition
from taskyard.nudges import Act, at_once
from taskyard.scheduler import assignment
from taskyard.scheduler.assignment import PassReport
from taskyard.scheduler.offers import Offers
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.store.failures import is_unavailable

#: Sends a hint for each assignment to its worker's own queue.
Announce = Callable[[Sequence[Transition]], None]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """The store with the settings, and the way to tell agents of their assignments."""

    settings: Settings
    store: Store
    announce: Announce
    #: Does an act soon; the caller need not wait for it.
    soon: Callable[[Act], None] = at_once
    offers: Offers = field(default_factory=Offers)

    def moment(self) -> Moment:
        """Now, by the database's clock, with how long an ended job is kept."""
        return Moment(now=self.store.clock.now(), keep=self.settings.job_retention)

    def run_pass(self, trigger: str) -> PassReport:
        """Run a pass at once and tell the agents what it assigned.

        A message is a hint: when it cannot be sent, the agent finds the job at its next heartbeat.
        """
        report = assignment.tick(self.store, self.settings, trigger=trigger)
        if report.assigned:
            try:
                self.announce(report.assigned)
            except Exception as error:
                events.warn("scheduler.announce_failed", error=type(error).__name__)
        return report

    def nudge(self, trigger: str) -> None:
        """Have a pass run soon; the caller's own work is done already, whatever comes of it."""
        self.soon(lambda: self.try_pass(trigger))

    def try_pass(self, trigger: str) -> None:
        """Run a pass now if a job waits and MongoDB answers."""
        try:
            if self.store.live.waiting_shapes():
                self.offers.look(self.store, self.settings)
                self.run_pass(trigger)
            else:
                self.offers.look_again(self.store, self.settings)
        except Exception as error:
            if not is_unavailable(error):
                raise
            events.warn("scheduler.pass_skipped", trigger=trigger, error=type(error).__name__)
