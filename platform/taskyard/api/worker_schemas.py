"""Schemas of the routes for workers: those that agents use, and the list of workers."""

from __future__ import annotations

import marshmallow as ma
from marshmallow import validate

from taskyard.api import fields as f
from taskyard.api.schemas import ID, LABEL, ApiSchema

_CHUNK_BYTES = 12 * 2**20


def _one_document(text: str) -> None:
    """Refuse text that does not fit into one document of MongoDB (16 MB) beside other fields."""
    if len(text.encode()) > _CHUNK_BYTES:
        raise ma.ValidationError(f"Longer than {_CHUNK_BYTES} bytes.")


def _addressable(text: str) -> None:
    """Refuse a worker's id that cannot be in a URL: nobody could drain or delete that worker."""
    if not text.isprintable() or text.startswith("/") or text in (".", ".."):
        raise ma.ValidationError(
            "Must have characters that can be shown, not begin with / and not be . or .. alone."
        )


class Lenient(ApiSchema):
    """Base for requests of agents of other systems: ignores unknown fields."""

    class Meta:
        """Schema options."""

        unknown = ma.EXCLUDE


class WorkerName(Lenient):
    """The id of a worker."""

    worker_id = f.Text(required=True, validate=ID)


class WorkerFacts(WorkerName):
    """What a worker reports of itself; null if unknown, as JavaScript writes NaN."""

    worker_id = f.Text(required=True, validate=[ID, _addressable])

    cpu_usage = f.Number(0, 100_000, allow_none=True)
    ram_free_mb = f.Number(0, 2**40, allow_none=True)
    ram_total_mb = f.Number(0, 2**40, allow_none=True)
    status = f.Text(validate=validate.Length(max=32), allow_none=True)
    docker_containers = f.Number(0, 2**31, allow_none=True)
    docker_cpu_usage = f.Number(0, 2**31, allow_none=True)
    docker_memory_mb = f.Number(0, 2**40, allow_none=True)


class Registration(WorkerFacts):
    """A worker that starts, and what it offers."""

    hostname = f.Text(required=True, validate=validate.Length(1, 255))
    os = f.Text(validate=validate.Length(max=255), allow_none=True)
    cpu_count = f.Number(0, 65_536, allow_none=True)
    version = f.Text(validate=validate.Length(max=64), allow_none=True)
    labels = ma.fields.List(
        f.Text(validate=LABEL), validate=validate.Length(max=50), allow_none=True
    )
    max_jobs = f.Whole(0, 100_000, allow_none=True)


class Heartbeat(WorkerFacts):
    """A sign of life of a worker, with the jobs that it really runs."""

    jobs = ma.fields.List(f.Text(validate=ID), validate=validate.Length(max=10_000))
    current_job_ids = ma.fields.List(f.Text(validate=ID), validate=validate.Length(max=10_000))


class HeartbeatAnswer(ApiSchema):
    """The jobs to cancel, and those that the worker no longer holds."""

    success = ma.fields.Boolean(required=True)
    worker_id = ma.fields.String(required=True)
    timestamp = ma.fields.Integer(required=True)
    cancel = ma.fields.List(ma.fields.String(), required=True)
    lost = ma.fields.List(ma.fields.String(), required=True)


class WorkerQuery(ApiSchema):
    """The id of a worker in a query, where agents send nothing else."""

    worker_id = f.Text(required=True, validate=ID)


class HandedOut(ApiSchema):
    """A job for a worker to run, and its lease."""

    job_id = ma.fields.String(required=True)
    command = ma.fields.String(required=True)
    file_url = ma.fields.String(allow_none=True)
    filename = ma.fields.String(allow_none=True)
    timeout_ms = ma.fields.Integer(required=True)
    env = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String())
    attempt = ma.fields.Integer(attribute="attempts", required=True)
    lease_id = ma.fields.String(required=True)


class HandedOutAnswer(ApiSchema):
    """A job to run, or null."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String()
    job = ma.fields.Nested(HandedOut, allow_none=True)


class LeaseFields(Lenient):
    """The job and its lease; agents of the earlier system send no attempt and no lease id."""

    job_id = f.Text(required=True, validate=ID)
    worker_id = f.Text(validate=ID, load_default="", allow_none=True)
    attempt = f.Whole(1, 10_000, load_default=None, allow_none=True)
    lease_id = f.Text(validate=ID, load_default=None, allow_none=True)


class OutputChunk(LeaseFields):
    """A piece of output; with a ``seq`` it may be sent again."""

    data = f.Printed(required=True, validate=[validate.Length(max=4 * 2**20), _one_document])
    type = f.Text(required=True, validate=validate.OneOf(["stdout", "stderr"]))
    seq = f.Whole(0, 2**53, load_default=None, allow_none=True)


class ResultFields(LeaseFields):
    """How a command ended; ``stdout`` and ``stderr``, if given, replace the streamed output."""

    worker_id = f.Text(required=True, validate=ID)
    exit_code = f.Whole(-(2**31), 2**32, required=True)
    stdout = f.Printed(load_default=None, allow_none=True)
    stderr = f.Printed(load_default=None, allow_none=True)
    result_zip_base64 = f.Text(load_default=None, allow_none=True)
    result_zip_name = f.Text(validate=validate.Length(max=255), load_default=None, allow_none=True)


class FailureReport(LeaseFields):
    """A failure of the worker, not of the command."""

    worker_id = f.Text(required=True, validate=ID)
    error_message = f.Printed(required=True, validate=validate.Length(min=1))


class CancelQuery(ApiSchema):
    """The job and its lease, of a worker that asks whether to stop."""

    job_id = f.Text(required=True, validate=ID)
    worker_id = f.Text(validate=ID, load_default="")
    attempt = f.QueryWhole(1, 10_000, load_default=None)
    lease_id = f.Text(validate=ID, load_default=None)


class CancelAnswer(ApiSchema):
    """Whether the worker must stop the job."""

    success = ma.fields.Boolean(required=True)
    cancel_requested = ma.fields.Boolean(required=True)


class Worker(ApiSchema):
    """A worker as the list of workers shows it."""

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
    """All workers, and how many there are of each status."""

    success = ma.fields.Boolean(required=True)
    workers = ma.fields.List(ma.fields.Nested(Worker), required=True)
    total_workers = ma.fields.Integer(required=True)
    idle_workers = ma.fields.Integer(required=True)
    busy_workers = ma.fields.Integer(required=True)
    unhealthy_workers = ma.fields.Integer(required=True)
    offline_workers = ma.fields.Integer(required=True)


class Deleted(ApiSchema):
    """A deleted worker, and whether it existed."""

    success = ma.fields.Boolean(required=True)
    worker_id = ma.fields.String(required=True)
    existed = ma.fields.Boolean(required=True)
