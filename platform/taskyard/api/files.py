"""Routes of files: uploads and result archives, streamed both ways."""

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

blueprint = Blueprint("files", __name__, url_prefix="/api/files", description="Files")

#: What a ZIP begins with: its first file, or the end of an empty one.
_ZIP_BEGINS = (b"PK\x03\x04", b"PK\x05\x06")


@blueprint.before_request
def allow_uploads() -> None:
    """An upload may be larger than other bodies; Werkzeug keeps it on disk, not in memory."""
    request.max_content_length = platform().settings.upload_cap_bytes


@blueprint.post("/upload")
@blueprint.doc(operationId="uploadFile")
@blueprint.arguments(file_schemas.FileUpload, location="files")
@blueprint.arguments(file_schemas.NoForm, location="form")
@blueprint.response(200, file_schemas.StoredFile)
def upload(files: dict[str, Any], _form: dict[str, Any]) -> Any:
    """Store a file. One that is a ZIP, or is named so, is checked before it is stored."""
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
    """The file, streamed; one range of it when that is asked for."""
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
        raise PreconditionFailed  # what was asked for (If-Match) is another file
    return response


def save_upload(file: FileStorage, *, must_be_archive: bool = False) -> StoredFile:
    """Check and store an upload. Raises BadArchive, TooLarge."""
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
    """The one range that is asked for. Several at once are answered whole, as none is; and so is
    who has the beginning of another file (If-Range).
    """
    size, etag = stored.size_bytes, quote_etag(stored.sha256)
    asked = parse_range_header(request.headers.get("Range"))
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    if request.headers.get("If-Range", etag) != etag:
        return None
    begin, end = asked.ranges[0]
    if size and end is None and begin < -size:
        # The last so many bytes of a file that has fewer are all of it (RFC 9110, 14.1.3).
        return 0, size
    wanted = asked.range_for_length(size)
    if wanted is None:
        raise RequestedRangeNotSatisfiable(size)
    return wanted


def _names(stored: StoredFile) -> dict[str, str]:
    """The file's name for a header; with letters that are not ASCII, as RFC 6266 writes them."""
    names = {"filename": secure_filename(stored.filename) or "file"}
    if not stored.filename.isascii():
        last = re.split(r"[/\\]", stored.filename)[-1]
        # What hides or turns text around is no part of a name.
        shown = "".join(character for character in last if character.isprintable())
        names["filename*"] = f"UTF-8''{quote(shown or 'file', safe='')}"
    return names
