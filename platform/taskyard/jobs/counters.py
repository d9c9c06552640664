"""The platform's counters, and which of them a job's transition moves."""

from __future__ import annotations

from enum import StrEnum

from taskyard.jobs.model import POISON_LOSSES
from taskyard.jobs.states import JobStatus, Verb
from taskyard.jobs.transition import Transition


class Counter(StrEnum):
    """The counters by their stored names; those with a label have one field for each value."""

    ATTEMPTS_LOST = "attemptsLost"
    JOBS_RECOVERED = "jobsRecovered"
    POISON_JOBS = "poisonJobs"
    #: By verb.
    REQUEUES = "requeues"
    #: By kind of agent.
    ASSIGNMENTS = "assignments"
    #: By kind of write.
    REFUSED_WRITES = "refusedWrites"
    PASSES = "passes"
    PASSES_SECONDS = "passesSeconds"
    SWEEPS_HELD_BACK = "sweepsHeldBack"

    def of(self, label: str) -> str:
        """The name of the counter for one value of its label."""
        return f"{self}.{label}"


def moved_by(transition: Transition) -> dict[str, float]:
    """What to add to the counters once the transition was written.

    Assignments by a pass are not included: the pass counts them itself, all at once.
    """
    moved: dict[str, float] = {}
    changes = transition.changes
    if transition.verb in (Verb.START, Verb.CLAIM) and transition.job.losses:
        moved[Counter.JOBS_RECOVERED] = 1
    if transition.verb is Verb.CLAIM:
        moved[Counter.ASSIGNMENTS.of(changes["agentKind"])] = 1
    if transition.verb is Verb.EXPIRE and changes.get("losses"):
        moved[Counter.ATTEMPTS_LOST] = 1
        if transition.to is JobStatus.FAILED and changes["losses"] >= POISON_LOSSES:
            moved[Counter.POISON_JOBS] = 1
    if transition.to is JobStatus.QUEUED:
        moved[Counter.REQUEUES.of(transition.verb)] = 1
    return moved
