"""Following a job to its end: its output on our streams, its states for the person who waits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

import click

from taskyard.cli import INTERRUPTED, show, streams
from taskyard.cli.values import took
from taskyard.client import Client
from taskyard.errors import TaskyardError

TIMED_OUT = 124
NOT_RUN = 125

#: For a job that left files but has no archive of them.
NOT_KEPT = "what it left was not kept: it was larger than the limit, or could not be packed"


def write_through(stream: TextIO, text: str) -> None:
    """Write what a job printed, at once."""
    stream.write(text)
    stream.flush()


class Patient:
    """Writes what a job printed. Since the job matters more, a stream that fails raises nothing:
    it is silent from then on.
    """

    #: Whether some of stdout was lost, other than by a reader that went away.
    lost = False

    def __call__(self, stream: TextIO, text: str) -> None:
        """Write what can be written."""
        try:
            write_through(stream, text)
        except OSError as error:
            streams.silence(stream)
            if stream is sys.stdout and not streams.is_unread(error):
                self.lost = True
                show.progress(f"{stream.name}: {error.strerror}; the job goes on", "red")


def follow_to_end(
    client: Client,
    job_id: str,
    *,
    to_stderr: bool = False,
    write: Callable[[TextIO, str], None] = write_through,
) -> dict[str, Any]:
    """Print the job's output as it comes; returns the ended job."""
    stdout = sys.stderr if to_stderr else sys.stdout
    show.progress(job_id)
    for event in client.follow(job_id):
        match event.name:
            case "stdout":
                write(stdout, event.data["data"])
            case "stderr":
                write(sys.stderr, event.data["data"])
            case "reset":
                text = f"attempt {event.data['attempt']}: the output starts anew"
                show.progress(text, "yellow")
            case "state":
                _print_state(event.data)
    job = client.status(job_id)
    ran = ""
    if job["startedAt"]:
        ran = f" on {job['assignedAgentId']} in {took(job['completedAt'] - job['startedAt'])}"
    why = f": {job['errorMessage']}" if job["errorMessage"] else ""
    show.progress(f"{job['status']}{ran}{why}", show.STYLES[job["status"]])
    if job["resultFileUrl"]:
        show.progress(f"what it left: taskyard fetch {job_id}")
    elif job["resultTruncated"]:
        show.progress(NOT_KEPT, "yellow")
    return job


@contextmanager
def cancelling(client: Client, create: Callable[[], str]) -> Iterator[None]:
    """Cancel the job on Ctrl-C. ``create`` returns the job's id, and the same one if called again.

    Ctrl-C may interrupt the creation itself, with the job queued or not.
    """
    try:
        yield
    except KeyboardInterrupt:
        _cancel(client, create)
        raise click.exceptions.Exit(INTERRUPTED) from None


def exit_code_of(job: Mapping[str, Any]) -> int:
    """Return the exit code for a process that ran this job."""
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


def _print_state(state: Mapping[str, Any]) -> None:
    if state["status"] == "RUNNING":
        stopping = ", asked to stop" if state["cancelRequested"] else ""
        show.progress(f"running on {state['assignedAgentId']}{stopping}")
    elif state["waitingReason"]:
        show.progress(f"waiting: {state['waitingReason']}")


def _cancel(client: Client, create: Callable[[], str]) -> None:
    show.progress("Ctrl-C: cancelling the job", "yellow")
    job_id = ""
    try:
        job_id = create()
        client.cancel(job_id, reason="Ctrl-C")
    except (TaskyardError, KeyboardInterrupt) as error:
        what = f"{job_id} could not be cancelled" if job_id else "it may have been queued"
        show.progress(f"{what}: {str(error) or 'Ctrl-C'}", "red")
    else:
        show.progress(f"cancelled {job_id}", "yellow")
