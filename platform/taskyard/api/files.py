"""Routes for files: uploads and result archives, streamed in both directions."""

from __future__ import annotations

import re
from datetime import timedelta
from http import HTTPStatus
from typing import Any, BinaryIO, cast
from urllib.parse import quote

from flask import Response, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import PreconditionFailed, RequestedRangeNotSatisfiable
from werkzeug.http import parse_range_header, quote_etag
from werkzeug.utils import secure_filename

from taskyard import archive
from taskyard.api import file_schemas
from taskyard.api.base import Blueprint, platform
from taskyard.archive import ArchiveLimits
from taskyard.operations import DOWNLOAD_PATH
from taskyard.store.files import StoredFile

blueprint = Blueprint(
    "files", __name__, url_prefix="/api/files", description="Uploads, and what jobs left"
)

#: How a ZIP begins: with its first file, or with the end record if it is empty.
_ZIP_BEGINS = (b"PK\x03\x04", b"PK\x05\x06")


@blueprint.before_request
def allow_uploads() -> None:
    """Allow larger bodies than on other routes; Werkzeug keeps uploads on disk, not in memory."""
    request.max_content_length = platform().settings.upload_cap_bytes


@blueprint.post("/upload")
@blueprint.doc(operationId="uploadFile")
@blueprint.arguments(file_schemas.FileUpload, location="files")
@blueprint.arguments(file_schemas.NoForm, location="form")
@blueprint.response(200, file_schemas.StoredFile)
def upload(files: dict[str, Any], _form: dict[str, Any]) -> Any:
    """Store a file. A ZIP, by its content or by its name, is checked before it is stored."""
    stored = save_upload(files["file"])
    return {
        "success": True,
        "file_id": stored.file_id,
        "filename": stored.filename,
        "size": stored.size_bytes,
        "sha256": stored.sha256,
        "url": f"{DOWNLOAD_PATH}{stored.file_id}",
    }


@blueprint.get("/download/<file_id>")
@blueprint.doc(operationId="downloadFile")
@blueprint.response(
    200, {"type": "string", "format": "binary"}, content_type="application/octet-stream"
)
def download(file_id: str) -> Any:
    """Download a file, or one range of its bytes."""
    stored = platform().store.files.get(file_id)
    wanted = _range(stored)
    start, stop = wanted or (0, stored.size_bytes)
    pieces = platform().store.files.pieces(file_id, start, stop - start)
    response = Response(pieces, mimetype=stored.content_type)
    response.content_length = stop - start
    response.accept_ranges = "bytes"
    response.set_etag(stored.sha256)
    response.headers.set("Content-Disposition", "attachment", **_names(stored))
    if wanted:
        response.status_code = 206
        response.content_range.set(start, stop, stored.size_bytes)
    response.make_conditional(request)
    if response.status_code == HTTPStatus.PRECONDITION_FAILED:
        raise PreconditionFailed  # the request asks for another file (If-Match)
    return response


def save_upload(file: FileStorage, *, must_be_archive: bool = False) -> StoredFile:
    """Store an upload; a ZIP is checked first. Raises BadArchive, TooLarge."""
    source = cast(BinaryIO, file.stream)
    name = (file.filename or "file")[:255].replace("\0", "")
    begins = source.read(len(_ZIP_BEGINS[0]))
    source.seek(0)
    is_archive = must_be_archive or begins in _ZIP_BEGINS or name.lower().endswith(".zip")
    settings = platform().settings
    if is_archive:
        archive.check(source, ArchiveLimits.of(settings))
        source.seek(0)
    return platform().store.files.save(
        source,
        filename=name,
        cap_bytes=settings.upload_cap_bytes,
        keep=timedelta(days=settings.upload_retention_days),
        content_type="application/zip" if is_archive else "application/octet-stream",
        is_archive=is_archive,
    )


def _range(stored: StoredFile) -> tuple[int, int] | None:
    """Return the range of bytes to send, or None for the whole file.

    The whole file answers requests without a range, with several ranges, and those that continue
    another file (If-Range). Raises RequestedRangeNotSatisfiable.
    """
    size, etag = stored.size_bytes, quote_etag(stored.sha256)
    asked = parse_range_header(request.headers.get("Range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    if request.headers.get("If-Range", etag) != etag:
        return None
    begin, end = asked.ranges[0]
    if size and end is None and begin < -size:
        # A range of more last bytes than the file has is the whole file (RFC 9110, 14.1.3).
        return 0, size
    wanted = asked.range_for_length(size)
    if wanted is None:
        raise RequestedRangeNotSatisfiable(size)
    return wanted


def _names(stored: StoredFile) -> dict[str, str]:
    """Return the file's name for Content-Disposition, if not ASCII also as RFC 6266 encodes it."""
    names = {"filename": secure_filename(stored.filename) or "file"}
    if not stored.filename.isascii():
        last = re.split(r"[/\\]", stored.filename)[-1]
        # Characters that are invisible or reorder text are left out.
        shown = "".join(character for character in last if character.isprintable())
        names["filename*"] = f"UTF-8''{quote(shown or 'file', safe='')}"
    return names
