"""Routes for workers: those that agents in any language use, and those to manage workers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from flask import request
from werkzeug.exceptions import MethodNotAllowed

from taskyard import operations, worker_half
from taskyard.api import errors, representations, schemas, worker_schemas
from taskyard.api.auth import caller
from taskyard.api.base import Blueprint, base_url, platform, read_json
from taskyard.api.results import read_result, result_of
from taskyard.clock import epoch_ms
from taskyard.documents import camel
from taskyard.errors import Gone
from taskyard.jobs.model import Job, Lease
from taskyard.operations import DOWNLOAD_PATH

blueprint = Blueprint(
    "workers",
    __name__,
    url_prefix="/api",
    description="The workers, and the routes of agents over HTTP",
)

#: Made once, as ``Blueprint.arguments`` does for other routes.
_WORKER_NAME = worker_schemas.WorkerName()

_POLL_DOC = {
    "requestBody": {
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WorkerName"}}},
    },
    "parameters": [{"in": "query", "name": "workerId", "schema": {"type": "string"}}],
}

_RESULT_DOC = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ResultFields"}},
        },
    }
}


@blueprint.post("/workers/register")
@blueprint.doc(operationId="registerWorker")
@blueprint.arguments(worker_schemas.Registration)
@blueprint.response(200, schemas.Done)
def register(body: dict[str, Any]) -> Any:
    """Register a worker that starts. This is a new boot, which clears deletion and cooldown."""
    worker_id = _speaking_for(body)
    worker_half.register(platform(), worker_id, _facts(body))
    return {"success": True, "worker_id": worker_id, "message": "Worker registered"}


@blueprint.get("/workers/register")
@blueprint.doc(operationId="listWorkersOfOld", deprecated=True)
@blueprint.response(410, description="Use /api/workers/list")
def registered() -> Any:
    """The earlier system's list of workers; always 410."""
    raise Gone("Use /api/workers/list")


@blueprint.post("/workers/heartbeat")
@blueprint.doc(operationId="heartbeat")
@blueprint.arguments(worker_schemas.Heartbeat)
@blueprint.response(200, worker_schemas.HeartbeatAnswer)
def heartbeat(body: dict[str, Any]) -> Any:
    """Report that a worker lives and which jobs it runs; renews the leases of these jobs.

    The worker must stop the jobs in ``cancel`` and in ``lost``; it no longer holds the latter.
    """
    worker_id = _speaking_for(body)
    job_ids = [*body.pop("jobs", []), *body.pop("current_job_ids", [])]
    beat = worker_half.heartbeat(platform(), worker_id, _facts(body), job_ids)
    return {
        "success": True,
        "worker_id": worker_id,
        "timestamp": epoch_ms(beat.worker.last_heartbeat),
        "cancel": beat.cancel,
        "lost": beat.lost,
    }


@blueprint.get("/workers/list")
@blueprint.doc(operationId="listWorkers")
@blueprint.response(200, worker_schemas.WorkerList)
def list_workers() -> Any:
    """List all workers with their current status and reserved resources."""
    shown = representations.workers()
    counts = Counter(worker["status"] for worker in shown)
    return {
        "success": True,
        "workers": shown,
        "total_workers": len(shown),
        "idle_workers": counts["IDLE"],
        "busy_workers": counts["BUSY"],
        "unhealthy_workers": counts["UNHEALTHY"],
        "offline_workers": counts["OFFLINE"],
    }


@blueprint.delete("/workers/<path:worker_id>", merge_slashes=False)
@blueprint.doc(operationId="deleteWorker")
@blueprint.response(200, worker_schemas.Deleted)
def delete(worker_id: str) -> Any:
    """Delete a worker: it is not listed and gets no jobs until it registers again."""
    now = platform().store.clock.now()
    existed = platform().store.workers.soft_delete(worker_id, now=now)
    return {"success": True, "worker_id": worker_id, "existed": existed}


@blueprint.post("/workers/<path:worker_id>/drain", merge_slashes=False)
@blueprint.doc(operationId="drainWorker")
@blueprint.response(200, schemas.Done)
def drain(worker_id: str) -> Any:
    """Drain a worker: it gets no new jobs; its running jobs go on."""
    return _set_draining(worker_id, draining=True)


@blueprint.post("/workers/<path:worker_id>/resume", merge_slashes=False)
@blueprint.doc(operationId="resumeWorker")
@blueprint.response(200, schemas.Done)
def resume(worker_id: str) -> Any:
    """Resume a drained worker: it gets jobs again."""
    return _set_draining(worker_id, draining=False)


@blueprint.get("/jobs/get-job")
@blueprint.doc(operationId="getJobByQuery")
@blueprint.arguments(worker_schemas.WorkerQuery, location="query")
@blueprint.response(200, worker_schemas.HandedOutAnswer)
@blueprint.alt_response(202, schema=worker_schemas.HandedOutAnswer)
def get_job(query: dict[str, Any]) -> Any:
    """Claim the best queued job that fits the worker; 202 if there is none.

    The same as POST, for agents of the earlier system.
    """
    if request.method == "HEAD":
        # The answer to HEAD has no body: the job would be claimed and nobody would know.
        raise MethodNotAllowed(["GET", "POST"])
    return _hand_out(_speaking_for(query))


@blueprint.post("/jobs/get-job")
@blueprint.doc(operationId="pollJob", **_POLL_DOC)
@blueprint.response(200, worker_schemas.HandedOutAnswer)
@blueprint.alt_response(202, schema=worker_schemas.HandedOutAnswer)
def poll_job() -> Any:
    """Claim the best queued job that fits the worker; 202 if there is none.

    The worker's id may be in the body or in the query.
    """
    return _hand_out(_speaking_for(_asker()))


@blueprint.post("/jobs/stream-output")
@blueprint.doc(operationId="streamOutput")
@blueprint.arguments(worker_schemas.OutputChunk)
@blueprint.response(200, schemas.Done)
def stream_output(body: dict[str, Any]) -> Any:
    """Append output to the running attempt of a job."""
    lease = _lease(body)
    worker_half.stream(platform(), lease, stream=body["type"], data=body["data"], seq=body["seq"])
    return {"success": True, "job_id": lease.job_id, "message": "Output appended"}


@blueprint.get("/jobs/check-cancel")
@blueprint.doc(operationId="checkCancel")
@blueprint.arguments(worker_schemas.CancelQuery, location="query")
@blueprint.response(200, worker_schemas.CancelAnswer)
def check_cancel(query: dict[str, Any]) -> Any:
    """Ask whether to stop a job: its cancel was requested, or the worker no longer holds it."""
    asked = worker_half.cancel_requested(platform(), _lease(query))
    return {"success": True, "cancel_requested": asked}


@blueprint.post("/jobs/submit-result")
@blueprint.doc(operationId="submitResult", **_RESULT_DOC)
@blueprint.response(200, schemas.Done)
def submit_result() -> Any:
    """Report how a command ended; the same result may be sent again."""
    fields = read_result()
    job = worker_half.submit_result(platform(), _lease(fields), result_of(fields))
    return {"success": True, "job_id": job.job_id, "message": f"Result recorded: {job.status}"}


@blueprint.put("/jobs/submit-result")
@blueprint.doc(operationId="reportFailure")
@blueprint.arguments(worker_schemas.FailureReport)
@blueprint.response(200, schemas.Done)
def report_failure(body: dict[str, Any]) -> Any:
    """Report that the worker failed: it cools down; the job is retried if it has retries left."""
    job = worker_half.report_failure(platform(), _lease(body), body["error_message"])
    return {"success": True, "job_id": job.job_id, "message": f"Failure recorded: {job.status}"}


def _asker() -> dict[str, Any]:
    """Return the worker that polls, from the body or else the query. Raises InvalidRequest."""
    sent = read_json() if request.get_data() else {}
    named = {**request.args.to_dict(), **sent} if isinstance(sent, dict) else sent
    return errors.loaded(_WORKER_NAME, named)


def _speaking_for(body: dict[str, Any]) -> str:
    worker_id: str = body["worker_id"]
    caller().speak_for(worker_id)
    return worker_id


def _facts(body: dict[str, Any]) -> dict[str, Any]:
    """Return what the worker reported, as it is stored; IDLE and BUSY are derived, not stored."""
    facts = {camel(name): value for name, value in body.items() if value is not None}
    facts.pop("workerId")
    for name in ("ramTotalMb", "ramFreeMb"):
        if name in facts:
            facts[name] = int(facts[name])
    if facts.pop("status", "") == "UNHEALTHY":
        facts |= {"health": "UNHEALTHY", "healthReason": "reports that it is unhealthy"}
    return facts


def _lease(body: dict[str, Any]) -> Lease:
    """Return the lease that a request names; a bound token may stand for the worker's id."""
    worker_id = body["worker_id"] or caller().worker_id or ""
    caller().speak_for(worker_id)
    return Lease(
        job_id=body["job_id"],
        worker_id=worker_id,
        attempt=body["attempt"],
        lease_id=body["lease_id"],
    )


def _hand_out(worker_id: str) -> Any:
    job = worker_half.poll(platform(), worker_id)
    if job is None:
        return {"success": False, "message": "No job for this worker", "job": None}, 202
    return {"success": True, "message": "Job assigned", "job": _handed(job)}


def _handed(job: Job) -> dict[str, Any]:
    """Return the job as an agent on another host can run it.

    Its file has an address that the agent can fetch. Its lines end in LF alone: a shell takes a CR
    for a part of the last word.
    """
    url = f"{base_url()}{DOWNLOAD_PATH}{job.file_id}" if job.file_id else job.file_url
    return {**vars(job), "file_url": url, "command": job.command.replace("\r\n", "\n")}


def _set_draining(worker_id: str, *, draining: bool) -> dict[str, Any]:
    operations.drain(platform(), worker_id, draining=draining)
    message = "Worker drains" if draining else "Worker resumed"
    return {"success": True, "worker_id": worker_id, "message": message}
