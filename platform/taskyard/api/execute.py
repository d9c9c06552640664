"""Routes that run commands on an uploaded ZIP in one request; an agent runs them in both modes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from flask import Response, request

from taskyard import events, operations
from taskyard.api import file_schemas
from taskyard.api.auth import caller
from taskyard.api.base import Blueprint, platform
from taskyard.api.files import allow_uploads, save_upload
from taskyard.context import Platform
from taskyard.errors import Conflict
from taskyard.follow import follow
from taskyard.store.failures import is_unavailable

blueprint = Blueprint(
    "execute", __name__, url_prefix="/api", description="Run commands on a ZIP in one request"
)


@blueprint.before_request
def prepare() -> None:
    """Allow uploads, which may be larger than other bodies."""
    if request.method == "POST":
        allow_uploads()


@blueprint.post("/execute")
@blueprint.doc(operationId="execute")
@blueprint.arguments(file_schemas.ExecuteForm, location="form")
@blueprint.arguments(file_schemas.OptionalFile, location="files")
@blueprint.response(200, file_schemas.ExecuteAnswer)
def execute(form: dict[str, Any], files: dict[str, Any]) -> Any:
    """Run commands on a ZIP, as a job.

    ``direct`` streams the output as text while the job runs; the job is cancelled when the client
    goes away. ``distributed`` answers with the job's id as soon as the job is queued.
    """
    wanted = {"command": form["commands"], "timeout_ms": form["timeout_ms"]}
    if "file" in files:
        stored = save_upload(files["file"], must_be_archive=True)
        wanted |= {"file_id": stored.file_id, "filename": stored.filename}
    if form["mode"] == "direct":
        # The client is watching: it learns of a lost attempt, which is not retried unasked.
        wanted["max_retries"] = 0
    (job_id,) = operations.submit(platform(), [wanted], by=caller().name)
    if form["mode"] == "direct":
        text = _live(platform(), job_id, caller().name, request.environ.get("gunicorn.socket"))
        headers = {"X-Exec-Id": job_id, "X-Job-Id": job_id}
        return Response(text, mimetype="text/plain", headers=headers)
    answer = {
        "success": True,
        "job_id": job_id,
        "mode": "distributed",
        "message": "Job queued",
        "check_status_url": f"/api/jobs/status?jobId={job_id}",
    }
    return answer, 200, {"X-Job-Id": job_id}


@blueprint.delete("/execute")
@blueprint.doc(operationId="stopExecution")
@blueprint.arguments(file_schemas.StopRequest)
@blueprint.response(200, file_schemas.Stopped)
def stop(body: dict[str, Any]) -> Any:
    """Stop a direct execution; ``stopped`` is false if it had ended before."""
    try:
        operations.cancel(platform(), body["exec_id"], by=caller().name, reason="stopped")
    except Conflict:
        return {"stopped": False}
    return {"stopped": True}


def _live(here: Platform, job_id: str, by: str, connection: socket.socket | None) -> Iterator[str]:
    """Yield the output as it comes; cancel the job when the client goes away."""
    ended = False
    try:
        for seen in follow(here, job_id):
            ended = seen.ended
            if seen.reset:
                yield "\n[taskyard: the output above is replaced by what follows]\n"
            elif seen.chunk:
                yield seen.chunk.data
            elif connection is not None and _has_left(connection):
                return
            else:
                # A write lets other servers notice that the client left; gunicorn skips empty ones.
                yield ""
            if ended and seen.job.exit_code != 0:
                yield f"\n[taskyard: {seen.job.status}: {seen.job.error_message}]\n"
    finally:
        if not ended:
            _cancel_quietly(here, job_id, by)


def _has_left(connection: socket.socket) -> bool:
    """Return whether the client has closed its end; only a look tells while nothing is written."""
    try:
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, ValueError):
        # Nothing to read; or a TLS socket, which accepts no flags.
        return False
    except OSError:
        return True


def _cancel_quietly(here: Platform, job_id: str, by: str) -> None:
    try:
        operations.cancel(here, job_id, by=by, reason="the client went away")
    except Conflict:
        return
    except Exception as error:
        if not is_unavailable(error):
            raise
        events.warn("api.cancel_failed", job=job_id, error=type(error).__name__)
