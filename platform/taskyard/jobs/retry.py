"""Whether a job runs again after an attempt without success, decided in this one place."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from taskyard.jobs.model import POISON_LOSSES, Job


class Cause(StrEnum):
    """Why an attempt ended without success."""

    EXIT = "exit"
    AGENT = "agent_error"
    TIMEOUT = "timeout"
    LOST = "lost"
    STOPPED = "agent_stopped"


@dataclass(frozen=True, kw_only=True)
class RetryDecision:
    """Whether the job runs again, with the reason for its history."""

    again: bool
    reason: str


def decide(job: Job, cause: Cause, detail: str) -> RetryDecision:
    """Decide for the attempt that ``job`` is in; ``detail`` says what happened."""
    if cause is Cause.EXIT and not job.retry_on_exit:
        return RetryDecision(again=False, reason=detail)
    if cause is Cause.LOST and job.losses + 1 >= POISON_LOSSES:
        return RetryDecision(
            again=False,
            reason=f"poison job: its worker was lost {POISON_LOSSES} times in a row ({detail})",
        )
    if job.attempts > job.max_retries:
        return RetryDecision(again=False, reason=f"{detail}; no retries left")
    return RetryDecision(again=True, reason=detail)
