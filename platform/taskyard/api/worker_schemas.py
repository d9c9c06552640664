"""What the routes of workers take and give: the worker half, and the listing."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import validate

from taskyard.api import fields as f
from taskyard.api.schemas import ID, LABEL, ApiSchema

_CHUNK_BYTES = 12 * 2**20


def _one_document(text: str) -> None:
    """Refuse what one document of MongoDB cannot hold (16 MB) beside its other fields."""
    if len(text.encode()) > _CHUNK_BYTES:
        raise ma.ValidationError(f"Longer than {_CHUNK_BYTES} bytes.")


def _addressable(text: str) -> None:
    """Refuse the id of a worker that could be neither drained nor deleted: it is in an address."""
    if not text.isprintable() or text.startswith("/") or text in (".", ".."):
        raise ma.ValidationError(
            "Must have characters that can be shown, not begin with / and not be . or .. alone."
        )


class Lenient(ApiSchema):
    """For agents of other systems, which may send more than we know."""

    class Meta:
        """Schema options."""

        unknown = ma.EXCLUDE


class WorkerName(Lenient):
    """Names a worker."""

    worker_id = f.Text(required=True, validate=ID)


class WorkerFacts(WorkerName):
    """What a worker says of itself. What it does not know is null, as JavaScript writes NaN."""

    worker_id = f.Text(required=True, validate=[ID, _addressable])

    cpu_usage = f.Number(0, 100_000, allow_none=True)
    ram_free_mb = f.Number(0, 2**40, allow_none=True)
    ram_total_mb = f.Number(0, 2**40, allow_none=True)
    status = f.Text(validate=validate.Length(max=32), allow_none=True)
    docker_containers = f.Number(0, 2**31, allow_none=True)
    docker_cpu_usage = f.Number(0, 2**31, allow_none=True)
    docker_memory_mb = f.Number(0, 2**40, allow_none=True)


class Registration(WorkerFacts):
    """A worker that begins to work."""

    hostname = f.Text(required=True, validate=validate.Length(1, 255))
    os = f.Text(validate=validate.Length(max=255), allow_none=True)
    cpu_count = f.Number(0, 65_536, allow_none=True)
    version = f.Text(validate=validate.Length(max=64), allow_none=True)
    labels = ma.fields.List(
        f.Text(validate=LABEL), validate=validate.Length(max=50), allow_none=True
    )
    max_jobs = f.Whole(0, 100_000, allow_none=True)


class Heartbeat(WorkerFacts):
    """A worker that lives, and the jobs it really runs."""

    jobs = ma.fields.List(f.Text(validate=ID), validate=validate.Length(max=10_000))
    current_job_ids = ma.fields.List(f.Text(validate=ID), validate=validate.Length(max=10_000))


class HeartbeatAnswer(ApiSchema):
    """That it was heard, and which jobs to stop."""

    success = ma.fields.Boolean(required=True)
    worker_id = ma.fields.String(required=True)
    timestamp = ma.fields.Integer(required=True)
    cancel = ma.fields.List(ma.fields.String(), required=True)
    lost = ma.fields.List(ma.fields.String(), required=True)


class WorkerQuery(ApiSchema):
    """Names a worker in the query, where agents send nothing else."""

    worker_id = f.Text(required=True, validate=ID)


class HandedOut(ApiSchema):
    """A job to run."""

    job_id = ma.fields.String(required=True)
    command = ma.fields.String(required=True)
    file_url = ma.fields.String(allow_none=True)
    filename = ma.fields.String(allow_none=True)
    timeout_ms = ma.fields.Integer(required=True)
    env = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String())
    attempt = ma.fields.Integer(attribute="attempts", required=True)
    lease_id = ma.fields.String(required=True)


class HandedOutAnswer(ApiSchema):
    """A job, or that there is none."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String()
    job = ma.fields.Nested(HandedOut, allow_none=True)


class LeaseFields(Lenient):
    """Which attempt of which job; agents of the earlier system name the worker at most."""

    job_id = f.Text(required=True, validate=ID)
    worker_id = f.Text(validate=ID, load_default="", allow_none=True)
    attempt = f.Whole(1, 10_000, load_default=None, allow_none=True)
    lease_id = f.Text(validate=ID, load_default=None, allow_none=True)


class OutputChunk(LeaseFields):
    """A piece of output; one with a ``seq`` may be sent again."""

    data = f.Printed(required=True, validate=[validate.Length(max=4 * 2**20), _one_document])
    type = f.Text(required=True, validate=validate.OneOf(["stdout", "stderr"]))
    seq = f.Whole(0, 2**53, load_default=None, allow_none=True)


class ResultFields(LeaseFields):
    """How a command ended; stdout and stderr are the whole text."""

    worker_id = f.Text(required=True, validate=ID)
    exit_code = f.Whole(-(2**31), 2**32, required=True)
    stdout = f.Printed(load_default=None, allow_none=True)
    stderr = f.Printed(load_default=None, allow_none=True)
    result_zip_base64 = f.Text(load_default=None, allow_none=True)
    result_zip_name = f.Text(validate=validate.Length(max=255), load_default=None, allow_none=True)


class FailureReport(LeaseFields):
    """The worker failed, not the command."""

    worker_id = f.Text(required=True, validate=ID)
    error_message = f.Printed(required=True, validate=validate.Length(min=1))


class CancelQuery(ApiSchema):
    """Who asks whether to stop."""

    job_id = f.Text(required=True, validate=ID)
    worker_id = f.Text(validate=ID, load_default="")
    attempt = f.QueryWhole(1, 10_000, load_default=None)
    lease_id = f.Text(validate=ID, load_default=None)


class CancelAnswer(ApiSchema):
    """Whether to stop."""

    success = ma.fields.Boolean(required=True)
    cancel_requested = ma.fields.Boolean(required=True)


class Worker(ApiSchema):
    """A worker as the listing shows it."""

    worker_id = ma.fields.String(required=True)
    status = ma.fields.String(required=True)
    health_reason = ma.fields.String(allow_none=True)
    hostname = ma.fields.String()
    os = ma.fields.String()
    kind = ma.fields.String()
    version = ma.fields.String()
    labels = ma.fields.List(ma.fields.String())
    isolation = ma.fields.String()
    cpu_count = ma.fields.Float()
    cpu_usage = ma.fields.Float()
    ram_total_mb = ma.fields.Integer()
    ram_free_mb = ma.fields.Integer()
    max_jobs = ma.fields.Integer()
    reserved_cpu = ma.fields.Float()
    reserved_ram_mb = ma.fields.Integer()
    reserved_for = ma.fields.String(allow_none=True)
    current_job_ids = ma.fields.List(ma.fields.String())
    draining = ma.fields.Boolean()
    last_heartbeat = f.Instant()
    cooldown_until = f.Instant(allow_none=True)
    updated_at = f.Instant(allow_none=True)
    docker_containers = ma.fields.Float(allow_none=True)
    docker_cpu_usage = ma.fields.Float(allow_none=True)
    docker_memory_mb = ma.fields.Float(allow_none=True)


class WorkerList(ApiSchema):
    """All workers, counted by status."""

    success = ma.fields.Boolean(required=True)
    workers = ma.fields.List(ma.fields.Nested(Worker), required=True)
    total_workers = ma.fields.Integer(required=True)
    idle_workers = ma.fields.Integer(required=True)
    busy_workers = ma.fields.Integer(required=True)
    unhealthy_workers = ma.fields.Integer(required=True)
    offline_workers = ma.fields.Integer(required=True)


class Deleted(ApiSchema):
    """That a worker is gone, and whether it was there."""

    success = ma.fields.Boolean(required=True)
    worker_id = ma.fields.String(required=True)
    existed = ma.fields.Boolean(required=True)
