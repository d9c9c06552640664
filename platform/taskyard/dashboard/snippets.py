"""A job's inputs as commands to paste, for curl and for ``taskyard``. Pure."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime

from taskyard.dashboard.presenters import HIDDEN, number
from taskyard.documents import camel
from taskyard.jobs.model import INPUTS, Job

#: A job with all defaults; inputs that are equal to these are left out.
_USUAL = Job(job_id="", command="", created_at=datetime.min, queued_at=datetime.min)


def as_curl(job: Job, base_url: str) -> str:
    """Return the curl command that submits the same job; the token is a variable of the shell."""
    asked = {name: getattr(job, name) for name in INPUTS}
    body = {camel(name): value for name, value in asked.items() if value != getattr(_USUAL, name)}
    # The only control character that json.dumps does not escape.
    text = json.dumps(body, ensure_ascii=True).replace("\x7f", "\\u007f")
    return (
        'curl -H "Authorization: Bearer $TASKYARD_TOKEN" \\\n'
        f"  --json {shlex.quote(text)} \\\n"
        f"  {base_url}/api/jobs/create"
    )


def as_command(job: Job) -> str:
    """Return the ``taskyard run`` that submits the same job; its file must be in the folder."""
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
    """Return a quoted word for a shell; characters that cannot be seen are written as escapes."""
    if not HIDDEN.search(word):
        return shlex.quote(word)
    plain = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{HIDDEN.sub(_numbers, plain)}'"


def _numbers(hidden: re.Match[str]) -> str:
    # Octal, because shells differ in how many digits they read after \x.
    return "".join(f"\\{byte:03o}" for byte in hidden[0].encode())
