"""A job's inputs as lines to paste: for curl, and for the command line. Pure."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime

from taskyard.dashboard.presenters import HIDDEN, number
from taskyard.documents import camel
from taskyard.jobs.model import INPUTS, Job

#: A job that asks for nothing: what another has alike is left out of its request.
_USUAL = Job(job_id="", command="", created_at=datetime.min, queued_at=datetime.min)


def as_curl(job: Job, base_url: str) -> str:
    """The request that submits the same job, with the token left to the shell."""
    asked = {name: getattr(job, name) for name in INPUTS}
    body = {camel(name): value for name, value in asked.items() if value != getattr(_USUAL, name)}
    # The one control character that JSON leaves as it is.
    text = json.dumps(body, ensure_ascii=True).replace("\x7f", "\\u007f")
    return (
        'curl -H "Authorization: Bearer $TASKYARD_TOKEN" \\\n'
        f"  --json {shlex.quote(text)} \\\n"
        f"  {base_url}/api/jobs/create"
    )


def as_command(job: Job) -> str:
    """The line of the command line that submits the same job; a file of it is to be at hand."""
    words = ["taskyard", "run"]
    if job.filename and job.has_input:
        words += ["--file", job.filename]
    if job.required_cpu != _USUAL.required_cpu:
        words += ["--cpu", number(job.required_cpu)]
    if job.required_ram_mb != _USUAL.required_ram_mb:
        words += ["--ram", f"{job.required_ram_mb}MB"]
    if job.timeout_ms != _USUAL.timeout_ms:
        words += ["--timeout", f"{job.timeout_ms}ms"]
    if job.max_retries != _USUAL.max_retries:
        words += ["--retries", str(job.max_retries)]
    if job.retry_on_exit:
        words.append("--retry-on-exit")
    if job.priority != _USUAL.priority:
        words += ["--priority", str(job.priority)]
    for label in job.labels:
        words += ["--label", label]
    for name, value in job.env.items():
        words += ["--env", f"{name}={value}"]
    return " ".join(_quoted(word) for word in [*words, "--", job.command])


def _quoted(word: str) -> str:
    """One word of a shell's line; what could not be seen in it is written by its bytes' numbers."""
    if not HIDDEN.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{HIDDEN.sub(_numbers, plain)}'"


def _numbers(hidden: re.Match[str]) -> str:
    # Octal: after \x shells differ in how many digits they take.
    return "".join(f"\\{byte:03o}" for byte in hidden[0].encode())
