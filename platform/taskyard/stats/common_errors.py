"""Errors that differ in numbers alone are one error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from taskyard.jobs.search import NUMBER
from taskyard.jobs.search_terms import quoted

_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class SeenError:
    """An error as it stands on jobs: how often, and on which job last."""

    message: str
    jobs: int
    last_job_id: str


@dataclass(frozen=True, kw_only=True)
class CommonError:
    """An error with ``#`` for its numbers, how often it was seen, and how its jobs are found."""

    message: str
    jobs: int
    last_job_id: str
    search: str


def group(seen: Iterable[SeenError], *, limit: int) -> list[CommonError]:
    """The commonest first; ``seen`` has the newest first."""
    groups: dict[str, list[SeenError]] = {}
    for error in seen:
        groups.setdefault(fingerprint(error.message), []).append(error)
    common = [
        CommonError(
            message=message,
            jobs=sum(error.jobs for error in alike),
            last_job_id=alike[0].last_job_id,
            search=f"status:failed error:{quoted(message)}",
        )
        for message, alike in groups.items()
    ]
    return sorted(common, key=lambda error: -error.jobs)[:limit]


def fingerprint(message: str) -> str:
    """The message with ``#`` for each number, as ``error:`` of a search understands it."""
    return re.sub(NUMBER, "#", message[:_LONGEST])
