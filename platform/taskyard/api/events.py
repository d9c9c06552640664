"""The stream of server-sent events with a job's output and state; it can be resumed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, json, request

from taskyard.api import fields as f
from taskyard.api import job_schemas
from taskyard.api.auth import still_admitted
from taskyard.api.base import Blueprint, platform
from taskyard.errors import InvalidRequest
from taskyard.follow import Place, Seen, follow, replay

#: How long a stream may be silent before a comment is sent, so that proxies do not close it.
HEARTBEAT_SECONDS = 15.0

#: How often a stream checks its caller's token; it ends when the token was revoked.
ADMITTED_SECONDS = 10.0

blueprint = Blueprint(
    "events", __name__, url_prefix="/api/jobs", description="Follow a job with server-sent events"
)

_ID = re.compile(r"(\d{1,6})\.([a-z0-9]{1,32})\.(-?\d{1,16})")


class EventsQuery(job_schemas.JobName):
    """The job to follow; with an earlier ``attempt``, the output of that attempt alone."""

    attempt = f.QueryWhole(1, 10_000)


@blueprint.get("/events")
@blueprint.doc(operationId="followJob")
@blueprint.arguments(EventsQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/event-stream")
def follow_job(query: dict[str, Any]) -> Any:
    """Follow a job by server-sent events: stdout, stderr, state, reset and end.

    Send ``Last-Event-ID`` to resume after that event. With an ``attempt`` before the latest one,
    the output of that attempt is sent to its end.
    """
    found, start = platform().store.jobs.get(query["job_id"]), _resume_at()
    attempt = query.get("attempt")
    if attempt is not None and attempt < found.output_attempt:
        seen = replay(platform(), found, attempt, start)
    else:
        seen = follow(platform(), found.job_id, start)
    return Response(
        _stream(seen, still_admitted(platform())),
        mimetype="text/event-stream",
        # Otherwise nginx would buffer the stream.
        headers={"X-Accel-Buffering": "no"},
    )


def _resume_at() -> Place | None:
    given = request.headers.get("Last-Event-ID")
    if not given:
        return None
    match = _ID.fullmatch(given)
    if match is None:
        raise InvalidRequest("This is not an event id of ours.", field="Last-Event-ID")
    return Place(attempt=int(match[1]), generation=match[2], seq=int(match[3]))


def _stream(all_seen: Iterator[Seen], admitted: Callable[[], bool]) -> Iterator[str]:
    yield "retry: 1000\n\n"
    told = asked = time.monotonic()
    for seen in all_seen:
        if time.monotonic() - asked > ADMITTED_SECONDS:
            asked = time.monotonic()
            if not admitted():
                return
        text = _event(seen)
        if not text and time.monotonic() - told > HEARTBEAT_SECONDS:
            text = ": still here\n\n"
        if text:
            told = time.monotonic()
            yield text


def _event(seen: Seen) -> str:
    """Return the event that tells of what was seen, or "" if nothing is new."""
    if seen.reset:
        return _format("reset", {"attempt": seen.place.attempt}, seen.place)
    if seen.chunk:
        chunk = seen.chunk
        data = {"seq": chunk.seq, "data": chunk.data, "attempt": seen.place.attempt}
        return _format(chunk.stream, data, seen.place)
    if seen.ended:
        return _format("end", _state(seen), seen.place)
    return _format("state", _state(seen), seen.place) if seen.changed else ""


def _state(seen: Seen) -> dict[str, Any]:
    job = seen.job
    return {
        "status": str(job.status),
        "attempt": job.attempts,
        "assignedAgentId": job.assigned_agent_id,
        "cancelRequested": job.cancel_requested,
        "exitCode": job.exit_code,
        "errorMessage": job.error_message,
        "waitingReason": seen.waiting_reason,
    }


def _format(name: str, data: dict[str, Any], place: Place) -> str:
    identity = f"{place.attempt}.{place.generation}.{place.seq}"
    return f"event: {name}\nid: {identity}\ndata: {json.dumps(data)}\n\n"
