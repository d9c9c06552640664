"""Jobs over HTTP on top of the Celery app: ``POST /jobs`` and ``GET /jobs/<id>?wait=<seconds>``."""

from __future__ import annotations

import time
from typing import Any

import marshmallow as ma
from bench.peers.celery_app import app as celery_app
from bench.peers.celery_app import run
from flask import Flask, jsonify, request

#: First and longest pause between two polls for a result.
LOOK_SECONDS, LOOK_MOST_SECONDS = 0.002, 0.02

app = Flask(__name__)


class JobRequest(ma.Schema):
    """The body of ``POST /jobs``."""

    command = ma.fields.String(required=True, validate=ma.validate.Length(1, 65536))
    timeout_seconds = ma.fields.Float(
        load_default=300.0, data_key="timeoutSeconds", validate=ma.validate.Range(0.001, 86400)
    )


_schema = JobRequest()


@app.errorhandler(ma.ValidationError)
def invalid(error: ma.ValidationError) -> Any:
    """Answer 422 with the invalid fields."""
    return jsonify(errors=error.messages), 422


@app.post("/jobs")
def create() -> Any:
    """Queue a job."""
    wanted = _schema.load(request.get_json())
    queued = run.delay(wanted["command"], wanted["timeout_seconds"])
    return jsonify(jobId=queued.id), 202


@app.get("/jobs/<job_id>")
def status(job_id: str) -> Any:
    """Return a job's state and, once it has ended, its output; ``?wait=`` waits for the end."""
    until = time.monotonic() + request.args.get("wait", 0.0, type=float)
    pause_seconds = LOOK_SECONDS
    while True:
        meta = celery_app.backend.get_task_meta(job_id)
        if meta["status"] in ("SUCCESS", "FAILURE") or time.monotonic() >= until:
            break
        time.sleep(pause_seconds)
        pause_seconds = min(LOOK_MOST_SECONDS, pause_seconds * 1.3)
    if meta["status"] == "FAILURE":
        return jsonify(jobId=job_id, status="FAILURE", errorMessage=str(meta["result"]))
    return jsonify(jobId=job_id, status=meta["status"], **(meta["result"] or {}))
