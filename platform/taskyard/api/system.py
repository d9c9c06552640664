"""Routes for operators: ticks, passes, the broker's queues and dead letters, the database."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import validate

from taskyard import system
from taskyard.api import fields as f
from taskyard.api import schemas
from taskyard.api.auth import caller
from taskyard.api.base import Blueprint, platform

#: How many of the last passes are shown.
PASSES = 50

#: The most dead letters that one request acts on.
AT_ONCE = 200

blueprint = Blueprint(
    "system",
    __name__,
    url_prefix="/api",
    description="Ticks, passes, and the broker's queues and dead letters",
)


class Tick(schemas.ApiSchema):
    """The last run of a tick; ``report`` has numbers that differ from tick to tick."""

    name = ma.fields.String(required=True)
    at = f.Instant(required=True)
    ms = ma.fields.Float(allow_none=True)
    report = ma.fields.Dict(required=True)


class Pass(schemas.ApiSchema):
    """A pass of the scheduler that found jobs waiting."""

    at = f.Instant(required=True)
    trigger = ma.fields.String(required=True)
    queued = ma.fields.Integer(required=True)
    assigned = ma.fields.Integer(required=True)
    lost = ma.fields.Integer(required=True)
    ms = ma.fields.Float(required=True)
    workers = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)


class Queue(schemas.ApiSchema):
    """A queue of the broker; with ``more``, not all of its messages were counted."""

    name = ma.fields.String(required=True)
    waiting = ma.fields.Integer(required=True)
    held = ma.fields.Integer(required=True)
    more = ma.fields.Boolean(required=True)
    oldest_at = f.Instant(allow_none=True)


class Collection(schemas.ApiSchema):
    """The size of a collection."""

    name = ma.fields.String(required=True)
    documents = ma.fields.Integer(required=True)
    data_bytes = ma.fields.Integer(required=True)
    index_bytes = ma.fields.Integer(required=True)


class DatabaseSchema(schemas.ApiSchema):
    """The state of MongoDB."""

    version = ma.fields.String(required=True)
    set_name = ma.fields.String(allow_none=True)
    primary = ma.fields.String(allow_none=True)
    members = ma.fields.List(ma.fields.String(), required=True)
    data_bytes = ma.fields.Integer(required=True)
    storage_bytes = ma.fields.Integer(required=True)
    collections = ma.fields.List(ma.fields.Nested(Collection), required=True)


class SystemAnswer(schemas.ApiSchema):
    """The state of scheduler, ticks, broker and database."""

    scheduler_seen_at = f.Instant(allow_none=True)
    ticks = ma.fields.List(ma.fields.Nested(Tick), required=True)
    passes = ma.fields.List(ma.fields.Nested(Pass), required=True)
    queues = ma.fields.List(ma.fields.Nested(Queue), required=True)
    dead_letters = ma.fields.Integer(required=True)
    database = ma.fields.Nested(DatabaseSchema, required=True)


class DeadLetterQuery(schemas.ApiSchema):
    """The dead letters to list."""

    queue = f.Text(validate=validate.Length(1, 500))
    limit = f.QueryWhole(1, 200, load_default=50)
    after = f.Text(validate=validate.Length(max=64))


class DeadLetterSchema(schemas.ApiSchema):
    """A message that no consumer could handle."""

    id = ma.fields.String(required=True)
    queue = ma.fields.String(required=True)
    reason = ma.fields.String(required=True)
    published_at = f.Instant(required=True)
    died_at = f.Instant(allow_none=True)
    deliveries = ma.fields.Integer(required=True)
    task = ma.fields.String(allow_none=True)
    task_id = ma.fields.String(allow_none=True)
    arguments = ma.fields.String(allow_none=True)
    payload = ma.fields.String(required=True)


class DeadLetterPage(schemas.ApiSchema):
    """A page of dead letters, the latest published first."""

    dead_letters = ma.fields.List(ma.fields.Nested(DeadLetterSchema), required=True)
    next = ma.fields.String(allow_none=True)


class DeadLetterIds(schemas.ApiSchema):
    """The ids of dead letters to act on."""

    ids = ma.fields.List(
        f.Text(validate=validate.Length(1, 64)),
        required=True,
        validate=validate.Length(1, AT_ONCE),
    )


class Changed(schemas.ApiSchema):
    """How many dead letters were requeued or dropped."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    count = ma.fields.Integer(required=True)


@blueprint.get("/system")
@blueprint.doc(operationId="getSystem")
@blueprint.response(200, SystemAnswer)
def show() -> Any:
    """Get the last ticks and passes, the broker's queues, and the state of MongoDB."""
    return system.state(platform(), passes=PASSES)


@blueprint.get("/broker/dead-letters")
@blueprint.doc(operationId="listDeadLetters")
@blueprint.arguments(DeadLetterQuery, location="query")
@blueprint.response(200, DeadLetterPage)
def dead_letters(query: dict[str, Any]) -> Any:
    """List dead letters: messages that no consumer could handle, the latest published first."""
    found = system.inspection(platform()).dead_letters(**query)
    full = len(found) == query["limit"]
    return {"dead_letters": found, "next": found[-1].id if full else None}


@blueprint.post("/broker/dead-letters/requeue")
@blueprint.doc(operationId="requeueDeadLetters")
@blueprint.arguments(DeadLetterIds)
@blueprint.response(200, Changed)
def requeue(body: dict[str, Any]) -> Any:
    """Put dead letters back into their queues."""
    return _changed("requeued", system.requeue(platform(), body["ids"], by=caller().name))


@blueprint.post("/broker/dead-letters/drop")
@blueprint.doc(operationId="dropDeadLetters")
@blueprint.arguments(DeadLetterIds)
@blueprint.response(200, Changed)
def drop(body: dict[str, Any]) -> Any:
    """Delete dead letters for good."""
    return _changed("dropped", system.drop(platform(), body["ids"], by=caller().name))


def _changed(done: str, count: int) -> dict[str, Any]:
    return {"success": True, "message": f"{count} dead letters {done}", "count": count}
