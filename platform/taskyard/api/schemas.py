"""What all schemas share. Names are camelCase in JSON, as in MongoDB, and snake_case in Python."""

from __future__ import annotations

import inspect
from typing import Any

import marshmallow as ma
from marshmallow import validate

from taskyard.documents import camel
from taskyard.workers.model import LABEL_PATTERN

ID = validate.Length(1, 200)
LABEL = validate.Regexp(rf"^{LABEL_PATTERN}$(?!\n)")


class ApiSchema(ma.Schema):
    """Base of the schemas; refuses unknown fields by default."""

    class Meta:
        """Schema options."""

        unknown = ma.RAISE

    def __init_subclass__(cls) -> None:
        """Have the docstring describe the schema in the OpenAPI document too."""
        super().__init_subclass__()
        described = {"description": inspect.getdoc(cls)}
        cls.Meta = type("Meta", (cls.Meta,), described)  # type: ignore[assignment,misc] # a class

    def on_bind_field(self, field_name: str, field_obj: ma.fields.Field[Any]) -> None:
        """Give the field its camelCase name, unless it has a name of its own."""
        field_obj.data_key = field_obj.data_key or camel(field_name)


class Done(ApiSchema):
    """A request that succeeded, and the jobs or the worker that it was about."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    job_id = ma.fields.String()
    job_ids = ma.fields.List(ma.fields.String())
    retry_of = ma.fields.String()
    worker_id = ma.fields.String()
