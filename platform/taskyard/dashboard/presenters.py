"""Turns records into the texts that pages show. Pure functions; the caller gives ``now``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus

#: Characters that are invisible, or change how others are shown. static/ansi.js has the same.
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
_ANSI = re.compile(
    r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[PX^_][^\x1b]*(\x1b\\)?)"
)

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def duration(seconds: float | None) -> str:
    """Return ``40 ms``, ``1.4 s``, ``12 s``, ``3.5 min`` or ``2 h``; empty for None."""
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if seconds >= size:
            count = seconds / size
            return (
                f"{count:.1f} {unit}".replace(".0 ", " ") if count < 10 else f"{count:.0f} {unit}"
            )
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def ago(instant: datetime | None, now: datetime) -> str:
    """Return how long ago an instant was; empty for None."""
    if instant is None:
        return ""
    seconds = max(0.0, (now - instant).total_seconds())
    return f"{duration(seconds) if seconds >= 10 else f'{seconds:.0f} s'} ago"


def stamp(instant: datetime) -> str:
    """Return an instant as date and time in UTC."""
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def number(value: float) -> str:
    """Return a number as text that reads back as the same number, short if possible."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def between(start: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds from one instant to another; None if one of them is missing."""
    return (end - start).total_seconds() if start and end else None


def waited(job: Job, now: datetime) -> str:
    """Return how long the job was queued, or has been queued so far."""
    if job.started_at is None and job.is_terminal:
        return duration(between(job.queued_at, job.completed_at))
    return duration(between(job.queued_at, job.started_at or now))


def ran(job: Job, now: datetime) -> str:
    """Return how long the job ran, or has been running; empty while it is queued."""
    end = job.completed_at if job.is_terminal else now
    return duration(between(job.started_at, end)) if job.status is not JobStatus.QUEUED else ""


def rate(per_second: float) -> str:
    """Return a rate a second, a minute or an hour, whichever gives a number of 1 or more."""
    if per_second >= 1:
        return f"{per_second:.3g} a second"
    if per_second * 60 >= 1:
        return f"{per_second * 60:.3g} a minute"
    return f"{per_second * 3_600:.3g} an hour"


def report(facts: Mapping[str, Any]) -> list[str]:
    """Return what a tick reported, in words, without its duration, which has its own column."""
    said = {True: "yes", False: "no"}
    return [
        f"{_words(name)} {said[value] if isinstance(value, bool) else visible(str(value))}"
        for name, value in facts.items()
        if name != "durationMs"
    ]


def _words(name: str) -> str:
    return visible(re.sub("([A-Z])", lambda match: f" {match[0].lower()}", name))


def size(count: int) -> str:
    """Return a number of bytes with a unit; units are powers of 1000."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count = round(count / 1000)
    return f"{count} GB"


def megabytes(count: float) -> str:
    """Return an amount of memory with a unit; 1 GB is 1024 MB."""
    return f"{count / 1024:.3g} GB" if count >= 1024 else f"{count:.0f} MB"


def places(held: int, most: int) -> str:
    """Return how many places are in use; ``next`` are short jobs that were claimed ahead."""
    ahead = held - most
    return f"{most} of {most}, {ahead} next" if ahead > 0 else f"{held} of {most}"


def spent(seconds: Mapping[str, float]) -> str:
    """Return how long an attempt was in each state, in words."""
    words = {"QUEUED": "waited", "ASSIGNED": "given", "RUNNING": "ran"}
    return ", ".join(f"{words[state]} {duration(took)}" for state, took in seconds.items())


def visible(text: str) -> str:
    """Return text with control and direction characters written out, so that nothing is hidden."""
    return HIDDEN.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def plain(text: str) -> str:
    """Return output without terminal sequences, and with hidden characters written out."""
    return visible(_ANSI.sub("", text.replace("\r\n", "\n")))


def sentence(text: str) -> str:
    """Return words as a sentence: with a capital and a full stop."""
    return f"{visible(text[:1].upper() + text[1:])}."


def first_line(job: Job) -> str:
    """Return the first line of a command that is no comment and no ``set -``, shortened."""
    lines = [line.strip() for line in job.lines] or [job.command]
    line = next((line for line in lines if not line.startswith(("#", "set -"))), lines[0])
    return visible(line[:160])


class JobRow(NamedTuple):
    """One row of the list of jobs, as text."""

    job_id: str
    command: str
    filename: str
    #: Why the job waits, or what went wrong, and the style class of that text.
    said: str
    tone: str
    state: str
    stopping: bool
    worker_id: str
    worker: str
    queued: str
    queued_at: str
    queued_ago: str
    waited: str
    ran: str
    attempts: int
    exit_code: int | str


def job_row(job: Job, now: datetime, why: str | None) -> JobRow:
    """Return the row of a job; ``why`` is the reason why it waits, if it does."""
    failure = "" if job.status is JobStatus.COMPLETED else job.error_message or ""
    return JobRow(
        job_id=job.job_id,
        command=first_line(job),
        filename=visible((job.filename or "")[:80]),
        said=why or visible(failure[:200]),
        tone="why" if why else "bad" if job.status is JobStatus.FAILED else "note",
        state=job.status.lower(),
        stopping=job.cancel_requested and not job.is_terminal,
        worker_id=job.assigned_agent_id or "",
        worker=visible(job.assigned_agent_id or ""),
        queued=job.queued_at.isoformat(),
        queued_at=stamp(job.queued_at),
        queued_ago=ago(job.queued_at, now),
        waited=waited(job, now),
        ran=ran(job, now),
        attempts=job.attempts,
        exit_code="" if job.exit_code is None else job.exit_code,
    )


def entry(line: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return one entry of a job's history as text."""
    shown = {name: visible(str(value or "")) for name, value in line.items() if name != "at"}
    return {**shown, "at": line["at"], "ago": ago(line["at"], now)}
