"""Watching a job to its end: its output on our streams, its states for the person who waits."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from taskyard.cli import show
from taskyard.cli.values import took
from taskyard.client import Client, Event
from taskyard.errors import TaskyardError

TIMED_OUT = 124
NOT_RUN = 125
INTERRUPTED = 130


def follow_to_end(client: Client, job_id: str, *, to_stderr: bool = False) -> dict[str, Any]:
    """Print the job's output as it comes; returns the ended job."""
    stdout = sys.stderr if to_stderr else sys.stdout
    show.progress(job_id)
    for event in client.follow(job_id):
        _print(event, stdout)
    job = client.status(job_id)
    ran_ms = job["completedAt"] - job["startedAt"] if job["startedAt"] else None
    ran = f" in {took(ran_ms)}" if ran_ms is not None else ""
    why = f": {job['errorMessage']}" if job["errorMessage"] else ""
    show.progress(f"{job['status']}{ran}{why}", show.STYLES[job["status"]])
    if job["resultFileUrl"]:
        show.progress(f"what it left: taskyard fetch {job_id}")
    return job


@contextmanager
def cancelling(client: Client, job_id: str) -> Iterator[None]:
    """While it is ours to end: Ctrl-C cancels the job."""
    try:
        yield
    except KeyboardInterrupt:
        _cancel(client, job_id)
        raise click.exceptions.Exit(INTERRUPTED) from None


def exit_code_of(job: Mapping[str, Any]) -> int:
    """The code that a process ends with which ran this job."""
    if job["status"] == "COMPLETED":
        return 0
    if job["status"] == "CANCELLED":
        return NOT_RUN
    moves = [entry["verb"] for entry in job["history"] if entry["verb"] != "refuse"]
    if moves[-1] == "time_out":
        return TIMED_OUT
    code = job["exitCode"]
    # A process has 8 bits for its code; a failure must not become 0 in them.
    return NOT_RUN if code is None else (code & 0xFF or 1)


def _print(event: Event, stdout: Any) -> None:
    match event.name:
        case "stdout":
            stdout.write(event.data["data"])
            stdout.flush()
        case "stderr":
            sys.stderr.write(event.data["data"])
            sys.stderr.flush()
        case "reset":
            show.progress(f"attempt {event.data['attempt']}: the output starts anew", "yellow")
        case "state":
            _print_state(event.data)


def _print_state(state: Mapping[str, Any]) -> None:
    if state["status"] == "RUNNING":
        stopping = ", asked to stop" if state["cancelRequested"] else ""
        show.progress(f"running on {state['assignedAgentId']}{stopping}")
    elif state["waitingReason"]:
        show.progress(f"waiting: {state['waitingReason']}")


def _cancel(client: Client, job_id: str) -> None:
    try:
        client.cancel(job_id, reason="Ctrl-C")
        show.progress(f"cancelled {job_id}", "yellow")
    except TaskyardError as error:
        show.progress(f"{job_id} could not be cancelled: {error}", "red")
