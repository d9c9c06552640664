"""Schemas for jobs: request bodies, queries and answers."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import validate

from taskyard.api import fields as f
from taskyard.api.schemas import ID, LABEL, ApiSchema
from taskyard.jobs import search_terms
from taskyard.jobs.states import JobStatus

#: The most jobs that one request may submit, or ask the results of.
AT_ONCE = 1000


class JobRequest(ApiSchema):
    """A job to run: a command, a file to run it on, and what it needs."""

    command = f.Text(
        required=True, validate=[validate.Length(max=f.COMMAND_CHARACTERS), f.not_blank]
    )
    # Answers have null for a job without a file, so requests may have it too.
    file_id = f.Text(validate=ID, allow_none=True)
    file_url = f.Text(validate=[validate.Length(1, 2000), f.web_address], allow_none=True)
    filename = f.Text(validate=validate.Length(1, 255), allow_none=True)
    required_cpu = f.Number(0, 1024, above=True, load_default=1.0)
    required_ram_mb = f.Whole(1, 2**24, load_default=256)
    timeout_ms = f.Whole(100, 7 * 24 * 3600 * 1000, load_default=300_000)
    max_retries = f.Whole(0, 100, load_default=3)
    priority = f.Whole(0, 9, load_default=5)
    labels = ma.fields.List(
        f.Text(validate=LABEL), load_default=list, validate=validate.Length(max=20)
    )
    env = f.Environment(load_default=dict)
    retry_on_exit = f.Flag(load_default=False)


class JobName(ApiSchema):
    """The id of a job."""

    job_id = f.Text(required=True, validate=ID)


class CancelRequest(JobName):
    """The job to cancel, and the reason."""

    reason = f.Text(validate=validate.Length(max=500), allow_none=True)


class StatusQuery(JobName):
    """The job to show, and how many seconds to wait for its end."""

    wait = f.QueryWhole(0, 60, load_default=0)


class OutputQuery(JobName):
    """The job, and the stream and attempt whose output to read."""

    stream = f.Text(validate=validate.OneOf(["stdout", "stderr"]))
    attempt = f.QueryWhole(1, 10_000)


class ResultsRequest(ApiSchema):
    """Jobs, and how many seconds to wait until all of them have ended."""

    job_ids = ma.fields.List(
        f.Text(validate=ID), required=True, validate=validate.Length(1, AT_ONCE)
    )
    wait = f.Whole(0, 60, load_default=0)


class JobQuery(ApiSchema):
    """Conditions for jobs: a search ``q`` and the other parameters; all must hold."""

    q = f.Text(validate=validate.Length(max=search_terms.CHARACTERS))
    status = ma.fields.List(ma.fields.Enum(JobStatus, by_value=True))
    worker = f.Text(validate=ID)
    label = f.Text(validate=LABEL)
    text = f.Text(validate=validate.Length(1, 200))
    created_after = f.QueryInstant()
    created_before = f.QueryInstant()


class ListQuery(JobQuery):
    """Conditions for jobs, and the page of them to return."""

    limit = f.QueryWhole(1, 200, load_default=50)
    after = f.Text(validate=validate.Length(max=400))


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


class HistoryEntry(ApiSchema):
    """One transition of a job."""

    at = f.Instant(required=True)
    verb = ma.fields.String(required=True)
    from_ = ma.fields.String(data_key="from", attribute="from", allow_none=True)
    to = ma.fields.String(required=True)
    attempt = ma.fields.Integer(required=True)
    worker = ma.fields.String(allow_none=True)
    reason = ma.fields.String(allow_none=True)


class Given(ApiSchema):
    """A schema that leaves answers as they are, because ``representations`` has prepared them.

    Stored values need no check: marshmallow would only change names and instants, which takes a
    sixth of the time of a request.
    """

    def dump(self, obj: Any, *, many: bool | None = None) -> Any:  # noqa: ARG002 - marshmallow's
        """Return ``obj``."""
        return obj


class JobStatusAnswer(Given, Job):
    """A job in full, with the first MiB of each of its output streams."""

    stdout = ma.fields.String()
    stderr = ma.fields.String()
    env = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String())
    retry_on_exit = ma.fields.Boolean()
    waiting_workers = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.String())
    history = ma.fields.List(ma.fields.Nested(HistoryEntry))


class JobResult(ApiSchema):
    """How a job ended, or its state if it has not.

    ``stdout`` and ``stderr`` are null if they have more than 2 KB together; ``/api/jobs/output``
    has them.
    """

    job_id = ma.fields.String(required=True)
    status = ma.fields.Enum(JobStatus, by_value=True, required=True)
    attempts = ma.fields.Integer()
    assigned_agent_id = ma.fields.String(allow_none=True)
    exit_code = ma.fields.Integer(allow_none=True)
    error_message = ma.fields.String(allow_none=True)
    result_file_url = ma.fields.String(allow_none=True)
    output_bytes = ma.fields.Integer()
    output_truncated = ma.fields.Boolean()
    created_at = f.Instant(allow_none=True)
    started_at = f.Instant(allow_none=True)
    completed_at = f.Instant(allow_none=True)
    stdout = ma.fields.String(allow_none=True)
    stderr = ma.fields.String(allow_none=True)


class JobResults(ApiSchema):
    """The jobs of a request, in its order, and how many of them have ended."""

    jobs = f.Ready(ma.fields.Nested(JobResult), required=True)
    ended = ma.fields.Integer(required=True)


class JobCounts(ApiSchema):
    """The number of jobs by status; of the states in ``more`` there are at least that many."""

    counts = ma.fields.Dict(keys=ma.fields.String(), values=ma.fields.Integer(), required=True)
    more = ma.fields.List(ma.fields.String(), required=True)
    total = ma.fields.Integer(required=True)


class JobPage(ApiSchema):
    """A page of jobs; ``next`` is the ``after`` of the following page.

    ``lookedBackTo`` is set when the page ends because a page looks at a limited number of jobs: it
    says how far back this page looked. There may be more matches, and ``next`` looks further.
    """

    jobs = f.Ready(ma.fields.Nested(Job), required=True)
    count = ma.fields.Integer(required=True)
    next = ma.fields.String(allow_none=True)
    looked_back_to = f.Instant(allow_none=True)
