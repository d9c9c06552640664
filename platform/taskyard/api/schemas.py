"""Bodies, queries and answers. Names outside are camelCase, as in MongoDB; inside snake_case."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from flask_smorest.fields import Upload
from marshmallow import validate

from taskyard.api import fields as f
from taskyard.documents import camel
from taskyard.jobs.states import JobStatus

ID = validate.Length(1, 200)
_LABEL = validate.Regexp(r"^[A-Za-z0-9_.:/-]{1,64}$")


class ApiSchema(ma.Schema):
    """Strict by default: what is not known is refused."""

    class Meta:
        """Schema options."""

        unknown = ma.RAISE

    def on_bind_field(self, field_name: str, field_obj: ma.fields.Field[Any]) -> None:
        """Spell names as the API does."""
        field_obj.data_key = field_obj.data_key or camel(field_name)


class Lenient(ApiSchema):
    """For agents of other systems, which may send more than we know."""

    class Meta:
        """Schema options."""

        unknown = ma.EXCLUDE


# --- jobs


class JobRequest(ApiSchema):
    """A job to run: a command, a file to run it on, and what it needs."""

    command = f.Text(
        required=True, validate=[validate.Length(max=f.COMMAND_CHARACTERS), f.not_blank]
    )
    file_id = f.Text(validate=ID)
    file_url = f.Text(validate=[validate.Length(1, 2000), f.web_address])
    filename = f.Text(validate=validate.Length(1, 255))
    required_cpu = f.Number(0, 1024, above=True, load_default=1.0)
    required_ram_mb = f.Whole(1, 2**24, load_default=256)
    timeout_ms = f.Whole(100, 7 * 24 * 3600 * 1000, load_default=300_000)
    max_retries = f.Whole(0, 100, load_default=3)
    priority = f.Whole(0, 9, load_default=5)
    labels = ma.fields.List(
        f.Text(validate=_LABEL), load_default=list, validate=validate.Length(max=20)
    )
    env = f.Environment(load_default=dict)
    retry_on_exit = f.Flag(load_default=False)


class JobName(ApiSchema):
    """Names a job in a body."""

    job_id = f.Text(required=True, validate=ID)


class CancelRequest(JobName):
    """A job to cancel, and why."""

    reason = f.Text(validate=validate.Length(max=500), allow_none=True)


class StatusQuery(ApiSchema):
    """A job, and how many seconds to wait for its end."""

    job_id = f.Text(required=True, validate=ID)
    wait = f.QueryWhole(0, 60, load_default=0)


class OutputQuery(ApiSchema):
    """Whose output, and which part of it."""

    job_id = f.Text(required=True, validate=ID)
    stream = f.Text(validate=validate.OneOf(["stdout", "stderr"]))
    attempt = f.QueryWhole(1, 10_000)


class ListQuery(ApiSchema):
    """Which jobs, and which page of them."""

    limit = f.QueryWhole(1, 200, load_default=50)
    after = f.Text(validate=validate.Length(max=400))
    status = ma.fields.List(ma.fields.Enum(JobStatus, by_value=True))
    worker = f.Text(validate=ID)
    label = f.Text(validate=_LABEL)
    text = f.Text(validate=validate.Length(1, 200))
    created_after = f.QueryInstant()
    created_before = f.QueryInstant()


class Done(ApiSchema):
    """That it was done, and to what."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    job_id = ma.fields.String()
    job_ids = ma.fields.List(ma.fields.String())
    retry_of = ma.fields.String()
    worker_id = ma.fields.String()


class Job(ApiSchema):
    """A job as a list shows it."""

    job_id = ma.fields.String(required=True)
    id = ma.fields.String(required=True)
    command = ma.fields.String(required=True)
    file_id = ma.fields.String(allow_none=True)
    file_url = ma.fields.String(allow_none=True)
    filename = ma.fields.String(allow_none=True)
    status = ma.fields.Enum(JobStatus, by_value=True, required=True)
    assigned_agent_id = ma.fields.String(allow_none=True)
    required_cpu = ma.fields.Float()
    required_ram_mb = ma.fields.Integer()
    timeout_ms = ma.fields.Integer()
    max_retries = ma.fields.Integer()
    priority = ma.fields.Integer()
    labels = ma.fields.List(ma.fields.String())
    attempts = ma.fields.Integer()
    refused_writes = ma.fields.Integer()
    cancel_requested = ma.fields.Boolean()
    exit_code = ma.fields.Integer(allow_none=True)
    error_message = ma.fields.String(allow_none=True)
    waiting_reason = ma.fields.String(allow_none=True)
    retry_of = ma.fields.String(allow_none=True)
    submitted_by = ma.fields.String(allow_none=True)
    result_file_id = ma.fields.String(allow_none=True)
    result_filename = ma.fields.String(allow_none=True)
    result_file_url = ma.fields.String(allow_none=True)
    result_truncated = ma.fields.Boolean()
    output_bytes = ma.fields.Integer()
    output_truncated = ma.fields.Boolean()
    created_at = f.Instant(allow_none=True)
    queued_at = f.Instant(allow_none=True)
    assigned_at = f.Instant(allow_none=True)
    started_at = f.Instant(allow_none=True)
    completed_at = f.Instant(allow_none=True)
    last_streamed_at = f.Instant(allow_none=True)


class HistoryEntry(ma.Schema):
    """One transition of a job."""

    at = f.Instant(required=True)
    verb = ma.fields.String(required=True)
    from_ = ma.fields.String(data_key="from", attribute="from", allow_none=True)
    to = ma.fields.String(required=True)
    attempt = ma.fields.Integer(required=True)
    worker = ma.fields.String(allow_none=True)
    reason = ma.fields.String(allow_none=True)


class JobStatusAnswer(Job):
    """A job in full, with what it printed (its first megabyte a stream)."""

    stdout = ma.fields.String()
    stderr = ma.fields.String()
    env = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String())
    retry_on_exit = ma.fields.Boolean()
    waiting_workers = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String())
    history = ma.fields.List(ma.fields.Nested(HistoryEntry))


class JobPage(ApiSchema):
    """A page of jobs; ``next`` is the ``after`` of the following one."""

    jobs = ma.fields.List(ma.fields.Nested(Job), required=True)
    count = ma.fields.Integer(required=True)
    next = ma.fields.String(allow_none=True)


# --- workers


class WorkerFacts(Lenient):
    """What a worker says of itself."""

    worker_id = f.Text(required=True, validate=ID)
    cpu_usage = f.Number(0, 100_000)
    ram_free_mb = f.Number(0, 2**40)
    ram_total_mb = f.Number(0, 2**40)
    status = f.Text(validate=validate.Length(max=32))
    docker_containers = f.Number(0, 2**31, allow_none=True)
    docker_cpu_usage = f.Number(0, 2**31, allow_none=True)
    docker_memory_mb = f.Number(0, 2**40, allow_none=True)


class Registration(WorkerFacts):
    """A worker that begins to work."""

    hostname = f.Text(required=True, validate=validate.Length(1, 255))
    os = f.Text(validate=validate.Length(max=255))
    cpu_count = f.Number(0, 65_536)
    version = f.Text(validate=validate.Length(max=64))
    labels = ma.fields.List(f.Text(validate=_LABEL), validate=validate.Length(max=50))
    max_jobs = f.Whole(0, 100_000)


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


class WorkerName(Lenient):
    """Names a worker."""

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

    data = f.Text(required=True, validate=validate.Length(max=4 * 2**20))
    type = f.Text(required=True, validate=validate.OneOf(["stdout", "stderr"]))
    seq = f.Whole(0, 2**53, load_default=None, allow_none=True)


class ResultFields(LeaseFields):
    """How a command ended; stdout and stderr are the whole text."""

    worker_id = f.Text(required=True, validate=ID)
    exit_code = f.Whole(-(2**31), 2**32, required=True)
    stdout = f.Text(load_default=None, allow_none=True)
    stderr = f.Text(load_default=None, allow_none=True)
    result_zip_base64 = f.Text(load_default=None, allow_none=True)
    result_zip_name = f.Text(validate=validate.Length(max=255), load_default=None, allow_none=True)


class FailureReport(LeaseFields):
    """The worker failed, not the command."""

    worker_id = f.Text(required=True, validate=ID)
    error_message = f.Text(required=True, validate=validate.Length(1, 4000))


class CancelQuery(Lenient):
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


# --- files and direct execution


class FileUpload(ApiSchema):
    """A file in a multipart body."""

    file = Upload(required=True)


class OptionalFile(ApiSchema):
    """A file in a multipart body, or none."""

    file = Upload()


class StoredFile(ApiSchema):
    """A file as it was stored."""

    success = ma.fields.Boolean(required=True)
    file_id = ma.fields.String(required=True)
    filename = ma.fields.String(required=True)
    size = ma.fields.Integer(required=True)
    sha256 = ma.fields.String(required=True)
    url = ma.fields.String(required=True)


class ExecuteForm(ApiSchema):
    """Commands to run on a ZIP, at once (direct) or from the queue (distributed)."""

    commands = f.Text(
        required=True, validate=[validate.Length(max=f.COMMAND_CHARACTERS), f.not_blank]
    )
    mode = f.Text(load_default="direct", validate=validate.OneOf(["direct", "distributed"]))
    timeout_ms = f.QueryWhole(100, 7 * 24 * 3600 * 1000, load_default=300_000)


class ExecuteAnswer(ApiSchema):
    """A job that was made of an upload."""

    success = ma.fields.Boolean(required=True)
    job_id = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    message = ma.fields.String(required=True)
    check_status_url = ma.fields.String(required=True)


class StopRequest(ApiSchema):
    """Which direct execution to stop."""

    exec_id = f.Text(required=True, validate=ID)


class Stopped(ApiSchema):
    """That it was stopped."""

    stopped = ma.fields.Boolean(required=True)
