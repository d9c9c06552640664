"""Actions on jobs from the pages: cancel, run again, run again with edits, for one or many."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import marshmallow as ma
from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard import operations
from taskyard.api import errors, job_schemas
from taskyard.api.auth import caller
from taskyard.api.base import platform
from taskyard.dashboard import environment
from taskyard.dashboard.blueprint import blueprint
from taskyard.dashboard.session import local
from taskyard.errors import Conflict, InvalidRequest, NotFound
from taskyard.jobs.model import Job

#: The most jobs that one form may name; a page has fewer.
AT_ONCE = 200

_REASON_CHARACTERS = 500

#: Fields of the form for edits that are numbers.
_NUMBERS = ("requiredCpu", "requiredRamMb", "timeoutMs", "maxRetries", "priority")


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Cancel a job, and show it."""
    operations.cancel(platform(), job_id, by=caller().name, reason=reason())
    return redirect(url_for("dashboard.job", job_id=job_id), 303)


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> Response:
    """Submit a job again with the same inputs, and show the new job."""
    fresh = operations.retry(platform(), job_id, by=caller().name)
    return redirect(url_for("dashboard.job", job_id=fresh.job_id), 303)


@blueprint.get("/jobs/<job_id>/edit")
def edit(job_id: str) -> str:
    """Show a job's inputs in a form, to run it again with edits."""
    return _form(operations.ended(platform(), job_id), {}, {})


@blueprint.post("/jobs/<job_id>/edit")
def retry_edited(job_id: str) -> Any:
    """Submit a job again with edits; if these are invalid, show the form with the problems."""
    ended = operations.ended(platform(), job_id)
    try:
        edits = _edits(request.form, ended)
    except ma.ValidationError as error:
        problems = {
            entry["field"].partition(".")[0]: entry["message"]
            for entry in errors.Invalid(error.messages_dict).errors
        }
        return _form(ended, request.form, problems), 422
    fresh = operations.retry(platform(), job_id, by=caller().name, edits=edits)
    return redirect(url_for("dashboard.job", job_id=fresh.job_id), 303)


@blueprint.post("/jobs/act")
def act_on_jobs() -> Any:
    """Cancel or run again the selected jobs; the first request only asks for confirmation."""
    action = request.form.get("action", "")
    if action not in ("cancel", "retry"):
        raise NotFound("action", action)
    job_ids = list(dict.fromkeys(request.form.getlist("job")))
    if not 1 <= len(job_ids) <= AT_ONCE:
        raise InvalidRequest(f"Select 1 to {AT_ONCE} jobs.", field="job")
    back = local(request.form.get("back"))
    if request.form.get("sure") != "yes":
        jobs = platform().store.jobs
        found = [job for job_id in job_ids if (job := jobs.find(job_id))]
        fit = [job for job in found if job.is_terminal == (action == "retry")]
        return render_template(
            "confirm.html", action=action, jobs=fit, left_out=len(job_ids) - len(fit), back=back
        )
    done = sum(_acted(action, job_id) for job_id in job_ids)
    refused = len(job_ids) - done
    return redirect(url_for("dashboard.jobs", did=action, count=done, refused=refused), 303)


def reason() -> str | None:
    """Return the reason for a cancel from the form, or None."""
    return (request.form.get("reason") or "")[:_REASON_CHARACTERS].replace("\0", "") or None


def _acted(action: str, job_id: str) -> bool:
    """Act on one job; return False if its state no longer allows that, or it was deleted."""
    try:
        if action == "cancel":
            operations.cancel(platform(), job_id, by=caller().name, reason=reason())
        else:
            operations.retry(platform(), job_id, by=caller().name)
    except (Conflict, NotFound):
        return False
    return True


def _form(job: Job, given: Mapping[str, str], problems: Mapping[str, str]) -> str:
    env = given.get("env", environment.as_lines(job.env))
    return render_template("edit.html", job=job, env=env, given=given, problems=problems)


def _edits(form: Mapping[str, str], ended: Job) -> dict[str, Any]:
    """Return the form's values, validated as a request of the API.

    Browsers change all ends of lines to CR LF; a command or environment that was not edited keeps
    its own. Raises ValidationError.
    """
    command = environment.as_shown(form.get("command", ""))
    env = environment.as_shown(form.get("env", ""))
    untouched_command = command == environment.as_shown(ended.command)
    untouched_env = env == environment.as_lines(ended.env)
    request_body: dict[str, Any] = {
        "command": ended.command if untouched_command else command,
        "labels": form.get("labels", "").replace(",", " ").split(),
        "env": dict(ended.env) if untouched_env else environment.from_lines(env),
        "retryOnExit": form.get("retryOnExit") == "on",
    }
    for name in _NUMBERS:
        request_body[name] = _number(form.get(name, ""))
    loaded: dict[str, Any] = job_schemas.JobRequest().load(request_body)
    return {**loaded, "labels": tuple(loaded["labels"])}


def _number(text: str) -> float | int | str:
    """Return a number if the text is one, else the text, which the schema then refuses by name."""
    try:
        value = float(text)
    except ValueError:
        return text
    return int(value) if value.is_integer() else value
