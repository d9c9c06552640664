"""The commonest errors of jobs; messages that differ only in numbers count as one error."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from taskyard.jobs.search import NUMBER
from taskyard.jobs.search_terms import quoted

_LONGEST = 200


@dataclass(frozen=True, kw_only=True)
class SeenError:
    """An error message, the number of jobs that have it, and the latest of them."""

    message: str
    jobs: int
    last_job_id: str


@dataclass(frozen=True, kw_only=True)
class CommonError:
    """A message with ``#`` for numbers, the number of its jobs, and the search that finds them."""

    message: str
    jobs: int
    last_job_id: str
    search: str


def group(seen: Iterable[SeenError], *, limit: int) -> list[CommonError]:
    """Return the commonest errors, most frequent first; ``seen`` must have the newest first."""
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
    """Return the shortened message with ``#`` for numbers, as ``error:`` in a search matches it."""
    return re.sub(NUMBER, "#", message[:_LONGEST])
