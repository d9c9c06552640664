"""What happened, as facts: a stable name and fields; ``logs`` alone turns them into lines."""

from __future__ import annotations

from typing import Any

import structlog

_log = structlog.get_logger("taskyard")


def emit(event: str, **facts: Any) -> None:
    """Tell that ``event`` (``part.verb_in_past_tense``) happened, with its facts.

    No secrets, no command text and no output belong in the facts.
    """
    _log.info(event, **facts)


def warn(event: str, **facts: Any) -> None:
    """Tell of an event that an operator may have to act on."""
    _log.warning(event, **facts)


def error(event: str, cause: BaseException, **facts: Any) -> None:
    """Tell of a defect, with its traceback."""
    _log.error(event, exc_info=cause, **facts)
