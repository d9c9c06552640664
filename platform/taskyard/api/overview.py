"""The route for the overview: figures from stored statistics and from the current state."""

from __future__ import annotations

from typing import Any

import marshmallow as ma

from taskyard.api import fields as f
from taskyard.api import schemas
from taskyard.api.base import Blueprint, platform
from taskyard.overview import SPANS, Overview, overview
from taskyard.stats.histogram import Histogram, percentiles
from taskyard.stats.rollup import Rollup

blueprint = Blueprint(
    "overview", __name__, url_prefix="/api", description="Figures of the platform"
)


class OverviewQuery(schemas.ApiSchema):
    """The span of time to show."""

    span = f.Text(data_key="range", validate=ma.validate.OneOf(SPANS), load_default="1h")


class Durations(schemas.ApiSchema):
    """Percentiles of durations; at most 9 % off."""

    p50_ms = ma.fields.Float(required=True)
    p95_ms = ma.fields.Float(required=True)
    p99_ms = ma.fields.Float(required=True)


class Step(schemas.ApiSchema):
    """The figures of one step of time; null where nothing is known."""

    at = f.Instant(required=True)
    submitted = ma.fields.Integer(required=True)
    completed = ma.fields.Integer(required=True)
    failed = ma.fields.Integer(required=True)
    cancelled = ma.fields.Integer(required=True)
    wait = ma.fields.Nested(Durations, allow_none=True)
    run = ma.fields.Nested(Durations, allow_none=True)
    queued = ma.fields.Integer(allow_none=True)
    oldest_wait_ms = ma.fields.Integer(allow_none=True)
    utilisation = ma.fields.Float(allow_none=True)


class Now(schemas.ApiSchema):
    """The current state of jobs and workers."""

    jobs = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    more = ma.fields.List(ma.fields.String(), required=True)
    workers = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    oldest_queued_at = f.Instant(allow_none=True)
    used_cpu = ma.fields.Float(required=True)
    total_cpu = ma.fields.Float(required=True)


class CommonError(schemas.ApiSchema):
    """An error message with ``#`` for numbers, and the ``search`` that finds its jobs."""

    message = ma.fields.String(required=True)
    jobs = ma.fields.Integer(required=True)
    last_job_id = ma.fields.String(required=True)
    search = ma.fields.String(required=True)


class AlarmSchema(schemas.ApiSchema):
    """Something that is wrong now; ``search`` finds jobs that wait because of it."""

    kind = ma.fields.String(required=True)
    message = ma.fields.String(required=True)
    search = ma.fields.String(allow_none=True)


class OverviewAnswer(schemas.ApiSchema):
    """Figures over a span of time, and the current state."""

    at = f.Instant(required=True)
    range = ma.fields.String(required=True)
    step_ms = ma.fields.Integer(required=True)
    points = ma.fields.List(ma.fields.Nested(Step), required=True)
    total = ma.fields.Nested(Step, required=True)
    throughput_per_second = ma.fields.Float(required=True)
    failure_rate = ma.fields.Float(allow_none=True)
    now = ma.fields.Nested(Now, required=True)
    errors = ma.fields.List(ma.fields.Nested(CommonError), required=True)
    errors_looked_at = ma.fields.Integer(required=True)
    alarms = ma.fields.List(ma.fields.Nested(AlarmSchema), required=True)


@blueprint.get("/overview")
@blueprint.doc(operationId="getOverview")
@blueprint.arguments(OverviewQuery, location="query")
@blueprint.response(200, OverviewAnswer)
def show(query: dict[str, Any]) -> Any:
    """Get throughput, failures, waiting times, queue, utilisation, common errors and alarms."""
    found = overview(platform(), SPANS[query["span"]])
    return {
        **vars(found),
        "range": query["span"],
        "step_ms": round(found.span.shown.total_seconds() * 1000),
        "points": [_step(point) for point in found.points],
        "total": _step(found.total),
        "throughput_per_second": found.throughput_per_second,
        "failure_rate": found.failure_rate,
        "now": _now(found),
    }


def _step(rollup: Rollup) -> dict[str, Any]:
    """Return a step as the answer has it; what was never sampled in it is null, not 0."""
    seen = rollup.samples > 0
    return {
        **vars(rollup),
        "wait": _durations(rollup.wait),
        "run": _durations(rollup.run),
        "queued": rollup.queued if seen else None,
        "oldest_wait_ms": rollup.oldest_wait_ms if seen else None,
        "utilisation": rollup.utilisation,
    }


def _durations(histogram: Histogram) -> dict[str, Any] | None:
    found = percentiles(histogram)
    return vars(found) if found else None


def _now(found: Overview) -> dict[str, Any]:
    return {
        "jobs": found.jobs.counts,
        "more": sorted(found.jobs.more),
        "workers": found.workers,
        "oldest_queued_at": found.oldest_queued_at,
        "used_cpu": found.used_cpu,
        "total_cpu": found.total_cpu,
    }
