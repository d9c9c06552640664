"""Schemas of the routes for files and for execution."""

from __future__ import annotations

import marshmallow as ma
from flask_smorest.fields import Upload
from marshmallow import validate

from taskyard.api import fields as f
from taskyard.api.schemas import ID, ApiSchema


class NoForm(ApiSchema):
    """The text fields of an upload's form: there are none."""


class FileUpload(ApiSchema):
    """A file in a multipart body."""

    file = Upload(required=True)


class OptionalFile(ApiSchema):
    """A file in a multipart body, which may be missing."""

    file = Upload()


class StoredFile(ApiSchema):
    """A stored file, with the address to download it from."""

    success = ma.fields.Boolean(required=True)
    file_id = ma.fields.String(required=True)
    filename = ma.fields.String(required=True)
    size = ma.fields.Integer(required=True)
    sha256 = ma.fields.String(required=True)
    url = ma.fields.String(required=True)


class ExecuteForm(ApiSchema):
    """Commands to run on a ZIP: output streamed (``direct``) or only queued (``distributed``)."""

    commands = f.Text(
        required=True, validate=[validate.Length(max=f.COMMAND_CHARACTERS), f.not_blank]
    )
    mode = f.Text(load_default="direct", validate=validate.OneOf(["direct", "distributed"]))
    timeout_ms = f.QueryWhole(100, 7 * 24 * 3600 * 1000, load_default=300_000)


class ExecuteAnswer(ApiSchema):
    """The job that a distributed execution has queued."""

    success = ma.fields.Boolean(required=True)
    job_id = ma.fields.String(required=True)
    mode = ma.fields.String(required=True)
    message = ma.fields.String(required=True)
    check_status_url = ma.fields.String(required=True)


class StopRequest(ApiSchema):
    """The direct execution to stop."""

    exec_id = f.Text(required=True, validate=ID)


class Stopped(ApiSchema):
    """Whether the execution was stopped; false if it had ended before."""

    stopped = ma.fields.Boolean(required=True)
