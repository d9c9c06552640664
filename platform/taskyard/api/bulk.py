"""Routes that act on many jobs at once, or read the results of many."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import marshmallow as ma
from marshmallow import validate

from taskyard import bulk, ends
from taskyard.api import fields as f
from taskyard.api import job_schemas, paging, representations, schemas
from taskyard.api.auth import caller
from taskyard.api.base import Blueprint, platform
from taskyard.clock import epoch_ms, from_epoch_ms
from taskyard.errors import InvalidRequest, NotFound
from taskyard.jobs import search_terms
from taskyard.jobs.search import Field, Search, equal

#: Epoch milliseconds of the end of the year 9999.
_LATEST_MS = 253_402_300_799_999

blueprint = Blueprint(
    "bulk",
    __name__,
    url_prefix="/api/jobs",
    description="Act on many jobs, and read many results, in one request",
)


class BulkRequest(schemas.ApiSchema):
    """An action and its jobs: those that a search ``q`` finds, or those in ``jobIds``."""

    action = ma.fields.Enum(bulk.Action, by_value=True, required=True)
    q = f.Text(validate=validate.Length(1, search_terms.CHARACTERS))
    job_ids = ma.fields.List(f.Text(validate=schemas.ID), validate=validate.Length(1, bulk.BATCH))
    dry_run = f.Flag(load_default=False)
    as_of = f.Whole(0, _LATEST_MS)
    after = f.Text(validate=validate.Length(max=400))
    reason = f.Text(validate=validate.Length(max=500), allow_none=True)


class BulkAnswer(schemas.ApiSchema):
    """The count of a dry run (``matched``, ``more``), or what one batch did, and ``next``."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    as_of = ma.fields.Integer(required=True)
    matched = ma.fields.Integer()
    more = ma.fields.Boolean()
    job_ids = ma.fields.List(ma.fields.String())
    skipped = ma.fields.Integer()
    next = ma.fields.String(allow_none=True)


@blueprint.post("/bulk")
@blueprint.doc(operationId="actOnJobs")
@blueprint.arguments(BulkRequest)
@blueprint.response(200, BulkAnswer)
def act(body: dict[str, Any]) -> Any:
    """Cancel or retry all jobs that match, one batch with each request.

    With ``dryRun`` the jobs are only counted. To act on all, send the request with the ``asOf`` of
    the dry run, then again with the ``next`` of each answer as ``after``, until ``next`` is null.
    """
    given = from_epoch_ms(body["as_of"]) if "as_of" in body else None
    as_of = bulk.bound(given, now=platform().store.clock.now(), field="asOf")
    task = bulk.Task(
        action=body["action"],
        search=_search(body, as_of),
        as_of=as_of,
        by=caller().name,
        reason=body.get("reason"),
    )
    after = paging.decode(body.get("after"))
    answer = {"success": True, "as_of": epoch_ms(task.as_of)}
    if body["dry_run"]:
        count = bulk.count(platform(), task)
        at_least = "at least " if count.more else ""
        message = f"{at_least}{count.jobs} {'job matches' if count.jobs == 1 else 'jobs match'}"
        return {**answer, "message": message, "matched": count.jobs, "more": count.more}
    batch = bulk.act(platform(), task, after=after)
    return {
        **answer,
        "message": f"{len(batch.job_ids)} jobs, {batch.skipped} skipped",
        "job_ids": batch.job_ids,
        "skipped": batch.skipped,
        "next": paging.encode(batch.next),
    }


@blueprint.post("/results")
@blueprint.doc(operationId="getJobResults")
@blueprint.arguments(job_schemas.ResultsRequest)
@blueprint.response(200, job_schemas.JobResults)
def results(body: dict[str, Any]) -> Any:
    """Get the results of many jobs.

    With ``wait`` the answer comes as soon as all of them have ended, or after that many seconds.
    """
    wanted = body["job_ids"]
    ends.wait_until_all_ended(platform(), wanted, body["wait"])
    found = platform().store.queries.results_of(wanted)
    for job_id in wanted:
        if job_id not in found:
            raise NotFound("job", job_id)
    jobs = [found[job_id] for job_id in wanted]
    return {
        "jobs": representations.results(jobs),
        "ended": sum(job.is_terminal for job in jobs),
    }


def _search(body: dict[str, Any], as_of: datetime) -> Search:
    """Return the search that the request asks for. Raises InvalidRequest.

    An empty search is refused, so that it is not taken for all jobs. Ages count from ``as_of``,
    the instant of the dry run, so that all batches mean the same jobs.
    """
    if ("q" in body) == ("job_ids" in body):
        raise InvalidRequest("Say either q or jobIds.", field="q")
    if "job_ids" in body:
        return equal(Field.ID, *body["job_ids"])
    search = search_terms.parse(body["q"], now=as_of)
    if not search.conditions:
        raise InvalidRequest("Say which jobs; status:live or status:ended means all.", field="q")
    return search
