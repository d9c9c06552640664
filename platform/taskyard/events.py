"""Events: what happened, as a stable name and facts; only ``logs`` turns them into lines."""

from __future__ import annotations

from taskyard import logs


def emit(event: str, **facts: object) -> None:
    """Log that ``event`` (``part.verb_in_past_tense``) happened, with its facts.

    No secrets, no command text and no output belong in the facts.
    """
    logs.write("info", event, facts)


def warn(event: str, **facts: object) -> None:
    """Log an event that an operator may have to act on."""
    logs.write("warning", event, facts)


def error(event: str, cause: BaseException, **facts: object) -> None:
    """Log a defect, with its traceback."""
    logs.write("error", event, facts, cause)
