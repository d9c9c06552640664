"""What all schemas share. Names outside are camelCase, as in MongoDB; inside snake_case."""

from __future__ import annotations

from typing import Any

import marshmallow as ma
from marshmallow import validate

from taskyard.documents import camel
from taskyard.workers.model import LABEL_PATTERN

ID = validate.Length(1, 200)
LABEL = validate.Regexp(rf"^{LABEL_PATTERN}$(?!\n)")


class ApiSchema(ma.Schema):
    """Strict by default: what is not known is refused."""

    class Meta:
        """Schema options."""

        unknown = ma.RAISE

    def on_bind_field(self, field_name: str, field_obj: ma.fields.Field[Any]) -> None:
        """Spell names as the API does."""
        field_obj.data_key = field_obj.data_key or camel(field_name)


class Done(ApiSchema):
    """That it was done, and to what."""

    success = ma.fields.Boolean(required=True)
    message = ma.fields.String(required=True)
    job_id = ma.fields.String()
    job_ids = ma.fields.List(ma.fields.String())
    retry_of = ma.fields.String()
    worker_id = ma.fields.String()
