"""The pages. They read the store, and act through the operations that the API uses."""

from __future__ import annotations

from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard import operations
from taskyard.api import paging, representations
from taskyard.api.auth import COOKIE, Caller, caller
from taskyard.api.base import platform
from taskyard.dashboard import presenters
from taskyard.errors import NotFound, TaskyardError
from taskyard.jobs.states import JobStatus
from taskyard.store.queries import JobFilter
from taskyard.store.tokens import Role
from taskyard.waiting import explain

PAGE = 50

#: Chunks of output that a job's page carries; the text route has all of it.
SHOWN_CHUNKS = 60

blueprint = Blueprint(
    "dashboard",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@blueprint.context_processor
def helpers() -> dict[str, Any]:
    """What every template may use."""
    asking: Caller | None = g.get("caller")
    return {
        "show": presenters,
        "now": platform().store.clock.now(),
        "may_act": asking is not None and Role.OPERATOR in asking.roles,
        "signed_in": asking is not None and platform().settings.auth,
    }


@blueprint.get("/")
def jobs() -> str:
    """Jobs, newest first, by status, paged by key."""
    wanted = {name: request.args.get(name) or None for name in ("worker", "label", "text")}
    status = request.args.get("status")
    if status not in {None, "", *JobStatus}:
        raise NotFound("status", str(status))
    page = platform().store.queries.page(
        JobFilter(
            statuses=[JobStatus(status)] if status else [],
            worker=wanted["worker"],
            label=wanted["label"],
            text=wanted["text"],
        ),
        limit=PAGE,
        after=paging.decode(request.args.get("after")),
    )
    return render_template(
        "jobs.html",
        jobs=page.jobs,
        waiting=explain(platform(), page.jobs),
        next=paging.encode(page.next),
        status=status or "",
        statuses=list(JobStatus),
        wanted=wanted,
    )


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    """One job: where it stands, why it waits, its timeline, inputs and output."""
    found = platform().store.jobs.get(job_id)
    chunks = list(islice(platform().store.output.read(found), SHOWN_CHUNKS + 1))
    return render_template(
        "job.html",
        job=found,
        waiting=explain(platform(), [found]).get(job_id),
        chunks=chunks[:SHOWN_CHUNKS],
        more=len(chunks) > SHOWN_CHUNKS,
        last_event=_last_event(found, chunks[:SHOWN_CHUNKS]),
    )


@blueprint.get("/workers")
def workers() -> str:
    """All workers, with what they have in use."""
    return render_template("workers.html", workers=representations.workers())


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Cancel a job, and show it."""
    reason = (request.form.get("reason") or "")[:500].replace("\0", "") or None
    operations.cancel(platform(), job_id, by=caller().name, reason=reason)
    return redirect(url_for("dashboard.job", job_id=job_id), 303)


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> Response:
    """Submit a job anew, and show the new one."""
    fresh = operations.retry(platform(), job_id, by=caller().name)
    return redirect(url_for("dashboard.job", job_id=fresh.job_id), 303)


@blueprint.post("/workers/<worker_id>/<action>")
def worker_action(worker_id: str, action: str) -> Response:
    """Drain, resume or delete a worker."""
    store = platform().store
    now = store.clock.now()
    if action == "delete":
        store.workers.soft_delete(worker_id, now=now)
    elif action in ("drain", "resume"):
        store.workers.drain(worker_id, draining=action == "drain", now=now)
    else:
        raise NotFound("action", action)
    return redirect(url_for("dashboard.workers"), 303)


@blueprint.route("/sign-in", methods=["GET", "POST"])
def sign_in() -> Any:
    """Sign in with a token, which the browser then keeps for this site alone."""
    target = _local(request.values.get("next"))
    if request.method == "GET":
        return render_template("sign_in.html", next=target)
    token = request.form.get("token", "").strip()
    if platform().store.tokens.verify(token) is None:
        return render_template("sign_in.html", next=target, wrong=True), 401
    response = redirect(target, 303)
    response.set_cookie(
        COOKIE, token, httponly=True, samesite="Strict", secure=request.is_secure, max_age=2_592_000
    )
    return response


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """Forget the token."""
    response = redirect(url_for("dashboard.sign_in"), 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="Strict")
    return response


@blueprint.errorhandler(TaskyardError)
def explain_error(error: TaskyardError) -> tuple[str, int]:
    """An error as a page."""
    return render_template("error.html", error=error), error.status


def _local(target: str | None) -> str:
    """Where to go after signing in: a path of ours, never another site."""
    parts = urlsplit(target or "")
    safe = parts.path.startswith("/") and not parts.path.startswith("//")
    if not target or not safe or parts.netloc or parts.scheme or "\\" in target:
        return url_for("dashboard.jobs")
    return target


def _last_event(found: Any, chunks: list[Any]) -> str:
    """Where the page's live stream goes on."""
    seq = chunks[-1].seq if chunks else -1
    return f"{found.output_attempt}.{found.output_generation}.{seq}"
