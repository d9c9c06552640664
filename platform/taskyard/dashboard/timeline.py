"""The timeline of a job: how long each attempt was in each state, drawn to scale. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, zip_longest
from typing import Any

from taskyard.jobs.model import Job
from taskyard.jobs.states import HELD, TERMINAL, JobStatus, Verb


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A span of time in one state; ``left`` and ``width`` are percent of the timeline."""

    state: str
    worker: str | None
    seconds: float
    left: float
    width: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """One attempt: its bars, the seconds in each state, and how it ended."""

    attempt: int
    bars: Sequence[Bar]
    seconds: Mapping[str, float]
    worker: str | None
    end: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """All attempts on one axis, which begins with the oldest entry that the history has kept."""

    rows: Sequence[Row]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Span:
    state: JobStatus
    attempt: int
    worker: str | None
    start: datetime
    end: datetime


def draw(job: Job, now: datetime) -> Timeline:
    """Return the timeline of ``job``; until ``now`` if the job has not ended."""
    steps = [entry for entry in job.history if entry["verb"] != Verb.REFUSE]
    spans = _spans(steps, now)
    if not spans:
        return Timeline(rows=[], seconds=0)
    origin, end = spans[0].start, max(span.end for span in spans)
    whole = max((end - origin).total_seconds(), 0.001)
    attempts = sorted({span.attempt for span in spans})
    rows = [_row(number, spans, steps, origin, whole) for number in attempts]
    return Timeline(rows=rows, seconds=whole)


def _spans(steps: Sequence[Mapping[str, Any]], now: datetime) -> list[_Span]:
    """Return a span for each state that the job was in, without those in which jobs end."""
    spans: list[_Span] = []
    moves = [step for step in steps if step["from"] != step["to"]]
    for step, then in zip_longest(moves, moves[1:]):
        state = JobStatus(step["to"])
        if state in TERMINAL:
            continue
        end = max(step["at"], then["at"] if then else now)
        attempt = int(step["attempt"])
        if state is JobStatus.QUEUED:
            # A queued job waits for its next attempt; after a release that has the same number.
            handed_on = then is not None and JobStatus(then["to"]) in HELD
            attempt = int(then["attempt"]) if then and handed_on else attempt + 1
        spans.append(
            _Span(state=state, attempt=attempt, worker=step["worker"], start=step["at"], end=end)
        )
    return spans


def _row(
    attempt: int,
    spans: Sequence[_Span],
    steps: Sequence[Mapping[str, Any]],
    origin: datetime,
    whole: float,
) -> Row:
    mine = [span for span in spans if span.attempt == attempt]
    seconds: dict[str, float] = {}
    bars = []
    for span in mine:
        took = (span.end - span.start).total_seconds()
        seconds[str(span.state)] = seconds.get(str(span.state), 0) + took
        bars.append(
            Bar(
                state=str(span.state),
                worker=span.worker,
                seconds=took,
                left=round(100 * (span.start - origin).total_seconds() / whole, 3),
                width=round(100 * took / whole, 3),
            )
        )
    last = _ending(attempt, steps)
    worker = next((span.worker for span in reversed(mine) if span.worker), None)
    return Row(
        attempt=attempt,
        bars=bars,
        seconds=seconds,
        worker=worker,
        end=str(last["to"]) if last else None,
        reason=last["reason"] if last else None,
    )


def _ending(attempt: int, steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the step that ended the attempt: it left its worker, or was cancelled in the queue."""
    ended = None
    for before, step in pairwise([{"attempt": 0}, *steps]):
        left = step["from"] in HELD and step["to"] not in HELD
        cancelled_in_queue = step["from"] == JobStatus.QUEUED and step["to"] not in HELD
        of_this = (left and attempt == step["attempt"]) or (
            cancelled_in_queue and attempt == int(before["attempt"]) + 1
        )
        ended = step if of_this else ended
    return ended
