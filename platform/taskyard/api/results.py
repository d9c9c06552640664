"""The body of submit-result: JSON with the archive in base64, or multipart for large archives."""

from __future__ import annotations

import base64
import binascii
import io
import re
from functools import partial
from typing import Any, BinaryIO, cast

from flask import request

from taskyard import archive
from taskyard.api import errors, worker_schemas
from taskyard.api.base import platform, read_json, refuse_repeated
from taskyard.api.files import allow_uploads
from taskyard.archive import ArchiveLimits
from taskyard.errors import InvalidRequest
from taskyard.worker_half import Result


def read_result() -> dict[str, Any]:
    """Return the validated fields of a result. Raises InvalidRequest that names the field."""
    if request.mimetype == "multipart/form-data":
        allow_uploads()
        refuse_repeated(request.form)
        refuse_repeated(request.files)
        data: Any = dict(request.form.items())
        if "file" in data:
            raise InvalidRequest("Is text, and no file: its part has no filename.", field="file")
        for name in ("exitCode", "attempt"):
            if re.fullmatch(r"-?[0-9]{1,19}", data.get(name, "")):
                data[name] = int(data[name])
    else:
        data = read_json()
    return errors.loaded(worker_schemas.ResultFields(), data)


def result_of(fields: dict[str, Any]) -> Result:
    """Return the result; its archive is checked when ``store_archive`` is called."""
    return Result(
        exit_code=fields["exit_code"],
        stdout=fields["stdout"],
        stderr=fields["stderr"],
        store_archive=partial(_stored_archive, fields),
    )


def _stored_archive(fields: dict[str, Any]) -> dict[str, Any]:
    source, field = _archive(fields)
    if source is None:
        return {}
    settings = platform().settings
    try:
        # Agents of the earlier system always send a ZIP, even one that is empty or has links.
        archive.check_readable(source, ArchiveLimits.of(settings))
    except InvalidRequest as error:
        error.field = field
        raise
    source.seek(0)
    stored = platform().store.files.save(
        source,
        filename=fields["result_zip_name"] or f"{fields['job_id']}-result.zip",
        cap_bytes=settings.upload_cap_bytes,
        keep=settings.job_retention,
    )
    return {"resultFileId": stored.file_id, "resultFilename": stored.filename}


def _archive(fields: dict[str, Any]) -> tuple[BinaryIO | None, str]:
    if "file" in request.files:
        return cast(BinaryIO, request.files["file"].stream), "file"
    text = fields["result_zip_base64"]
    if not text:
        return None, ""
    try:
        return io.BytesIO(base64.b64decode(text, validate=True)), "resultZipBase64"
    except (binascii.Error, ValueError):
        raise InvalidRequest("Is not base64.", field="resultZipBase64") from None
