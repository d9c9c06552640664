"""Routes for jobs, as apps and people use them."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import marshmallow as ma
from flask import Response, request

from taskyard import ends, operations
from taskyard.api import errors, job_schemas, paging, representations, schemas
from taskyard.api.auth import caller
from taskyard.api.base import Blueprint, platform, read_json
from taskyard.errors import InvalidRequest
from taskyard.jobs import search_terms
from taskyard.jobs.search import Comparison, Field, Search, created, equal, in_states
from taskyard.store.chunks import Chunk

_KEY_CHARACTERS = 255

blueprint = Blueprint(
    "jobs",
    __name__,
    url_prefix="/api/jobs",
    description="Submit, list, read, cancel and retry jobs",
)

_KEY_DOC = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "minLength": 1, "maxLength": _KEY_CHARACTERS},
    "description": "The same key and body give the same jobs again, for 24 hours.",
}

_CREATE_DOC = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"$ref": "#/components/schemas/JobRequest"},
                        {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": job_schemas.AT_ONCE,
                            "items": {"$ref": "#/components/schemas/JobRequest"},
                        },
                    ]
                }
            }
        },
    },
    "parameters": [_KEY_DOC],
}


_JOB_REQUEST = job_schemas.JobRequest()

#: The names of its fields in requests, and in Python.
_NAMED = {str(field.data_key): name for name, field in _JOB_REQUEST.fields.items()}

_DEFAULTED = [
    (name, field)
    for name, field in _JOB_REQUEST.fields.items()
    if field.load_default is not ma.missing
]


@blueprint.post("/create")
@blueprint.doc(operationId="createJobs", **_CREATE_DOC)
@blueprint.response(201, schemas.Done)
def create() -> Any:
    """Submit one job or a list of jobs. The answer comes when they are stored durably."""
    body = read_json()
    job_ids = operations.submit(
        platform(),
        _requests(body),
        by=caller().name,
        key=_idempotency_key(),
        body=request.get_data(),
        host=request.host,
        in_list=isinstance(body, list),
    )
    if isinstance(body, list):
        return {"success": True, "job_ids": job_ids, "message": f"{len(job_ids)} jobs queued"}
    location = f"/api/jobs/status?jobId={job_ids[0]}"
    return (
        {"success": True, "job_id": job_ids[0], "message": "Job queued"},
        201,
        {"Location": location},
    )


@blueprint.get("/list")
@blueprint.doc(operationId="listJobs")
@blueprint.arguments(job_schemas.ListQuery, location="query")
@blueprint.response(200, job_schemas.JobPage)
def list_jobs(query: dict[str, Any]) -> Any:
    """List jobs in pages, newest first.

    For conditions that no index answers, a page looks at a limited number of jobs: then it may have
    fewer than ``limit``, and ``lookedBackTo`` says how far back it looked.
    """
    after = paging.decode(query.get("after"))
    page = platform().store.queries.page(_search(query), limit=query["limit"], after=after)
    shown = representations.jobs(page.jobs)
    return {
        "jobs": shown,
        "count": len(shown),
        "next": paging.encode(page.next),
        "looked_back_to": page.looked_back_to,
    }


@blueprint.get("/counts")
@blueprint.doc(operationId="countJobs")
@blueprint.arguments(job_schemas.JobQuery, location="query")
@blueprint.response(200, job_schemas.JobCounts)
def counts(query: dict[str, Any]) -> Any:
    """Count matching jobs by status; of the states in ``more`` not all jobs were counted."""
    tally = platform().store.queries.tally(_search(query))
    return {"counts": tally.counts, "more": sorted(tally.more), "total": tally.total}


@blueprint.get("/status")
@blueprint.doc(operationId="getJob")
@blueprint.arguments(job_schemas.StatusQuery, location="query")
@blueprint.response(200, job_schemas.JobStatusAnswer)
def status(query: dict[str, Any]) -> Any:
    """Get a job in full.

    With ``wait`` the answer comes as soon as the job has ended, or after that many seconds.
    """
    found = ends.wait_until_ended(platform(), query["job_id"], query["wait"])
    return representations.job_in_full(found)


@blueprint.get("/output")
@blueprint.doc(operationId="getJobOutput")
@blueprint.arguments(job_schemas.OutputQuery, location="query")
@blueprint.response(200, {"type": "string"}, content_type="text/plain")
def output(query: dict[str, Any]) -> Any:
    """Get a job's output as text: one stream, or both in the order in which they came."""
    found = platform().store.jobs.get(query["job_id"])
    chunks = platform().store.output.read(found, attempt=query.get("attempt"))
    return Response(_text(chunks, query.get("stream")), mimetype="text/plain")


@blueprint.post("/cancel")
@blueprint.doc(operationId="cancelJob")
@blueprint.arguments(job_schemas.CancelRequest)
@blueprint.response(200, schemas.Done)
def cancel(body: dict[str, Any]) -> Any:
    """Cancel a job: at once while it is queued or assigned; its agent stops a running job."""
    job = operations.cancel(platform(), body["job_id"], by=caller().name, reason=body.get("reason"))
    message = "Job cancelled" if job.is_terminal else "Cancel requested"
    return {"success": True, "job_id": job.job_id, "message": message}


@blueprint.post("/retry")
@blueprint.doc(operationId="retryJob", parameters=[_KEY_DOC])
@blueprint.arguments(job_schemas.JobName)
@blueprint.response(201, schemas.Done)
def retry(body: dict[str, Any]) -> Any:
    """Run an ended job again: submits a new job with the same inputs."""
    job = operations.retry(platform(), body["job_id"], by=caller().name, key=_idempotency_key())
    return (
        {"success": True, "job_id": job.job_id, "retry_of": job.retry_of, "message": "Job queued"},
        201,
        {"Location": f"/api/jobs/status?jobId={job.job_id}"},
    )


def _search(query: dict[str, Any]) -> Search:
    """Return the conditions of a query, ``q`` and the other parameters, as one search."""
    search = search_terms.parse(query.get("q", ""), now=platform().store.clock.now())
    if "status" in query:
        search &= in_states(query["status"])
    for name in (Field.WORKER, Field.LABEL, Field.TEXT):
        if name in query:
            search &= equal(name, query[name])
    if "created_after" in query:
        search &= created(Comparison.FROM, query["created_after"])
    if "created_before" in query:
        search &= created(Comparison.BELOW, query["created_before"])
    return search


def _requests(body: Any) -> list[dict[str, Any]]:
    """Return the requests of a body, one or many, all validated. Raises InvalidRequest."""
    if isinstance(body, list) and not 1 <= len(body) <= job_schemas.AT_ONCE:
        raise InvalidRequest(f"A list has 1 to {job_schemas.AT_ONCE} jobs.", field="jobs")
    entries = body if isinstance(body, list) else [body]
    loaded: dict[int, dict[str, Any]] = {}
    problems: dict[str, Any] = {}
    for named, numbers in _alike(entries).items():
        try:
            found = _schema_of(named).load([entries[number] for number in numbers], many=True)
            loaded.update(zip(numbers, map(_with_defaults, found), strict=True))
        except ma.ValidationError as error:
            for position, messages in error.messages_dict.items():
                place = f"jobs.{numbers[int(position)]}" if isinstance(body, list) else ""
                problems[place] = messages
    if problems:
        raise errors.Invalid(problems)
    return [loaded[number] for number in range(len(entries))]


def _alike(entries: Sequence[Any]) -> dict[frozenset[str], list[int]]:
    """Return the numbers of the entries, grouped by the fields that they name.

    Marshmallow takes as long for a field that is left out as for one that is there, and most are
    left out. So each group is loaded at once, by a schema of its fields alone.
    """
    groups: dict[frozenset[str], list[int]] = defaultdict(list)
    for number, entry in enumerate(entries):
        named = _NAMED.keys() & entry.keys() if isinstance(entry, dict) else _NAMED.keys()
        groups[frozenset(named)].append(number)
    return groups


@functools.lru_cache(maxsize=256)
def _schema_of(named: frozenset[str]) -> job_schemas.JobRequest:
    """Return the schema with the fields of these names and all required fields."""
    fields = _JOB_REQUEST.fields.items()
    return job_schemas.JobRequest(
        only=[name for name, field in fields if field.required or field.data_key in named]
    )


def _with_defaults(found: dict[str, Any]) -> dict[str, Any]:
    """Return the request with defaults for missing fields; each default is made anew."""
    wanted = {
        name: field.load_default() if callable(field.load_default) else field.load_default
        for name, field in _DEFAULTED
        if name not in found
    }
    wanted.update(found)
    wanted["labels"] = tuple(wanted["labels"])
    return wanted


def _idempotency_key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not 1 <= len(key) <= _KEY_CHARACTERS:
        raise InvalidRequest(
            f"Must have 1 to {_KEY_CHARACTERS} characters.", field="Idempotency-Key"
        )
    return key


def _text(chunks: Iterable[Chunk], stream: str | None) -> Iterator[str]:
    """Yield the output; this runs while the answer is sent, outside of the application context."""
    for chunk in chunks:
        if stream in (None, chunk.stream):
            yield chunk.data
