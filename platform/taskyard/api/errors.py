"""Every error as a problem document (RFC 9457), mapped in this one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import marshmallow as ma
from flask import Flask, Response, g, json, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from taskyard import events
from taskyard.errors import InvalidRequest, StoreUnavailable, TaskyardError
from taskyard.store.failures import is_unavailable

#: When a client may try again while MongoDB has no primary.
RETRY_AFTER_SECONDS = 2


class Invalid(InvalidRequest):
    """A body that was validated by hand; ``messages`` is marshmallow's tree by path."""

    def __init__(self, messages: Mapping[str, Any]) -> None:
        self._fields = list(_fields(messages))
        super().__init__("; ".join(f"{f['field']}: {f['message']}" for f in self._fields[:5]))

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """One entry per field at fault."""
        return self._fields


def loaded(schema: ma.Schema, sent: Any) -> dict[str, Any]:
    """A body that is read by hand, as the schema has it. Raises Invalid."""
    try:
        fields: dict[str, Any] = schema.load(sent)
    except ma.ValidationError as error:
        raise Invalid({"": error.messages}) from None
    return fields


def install(app: Flask) -> None:
    """Answer every error of ``app`` with a problem document."""
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    """The problem document of any error; what is no client's doing is logged as well."""
    match error:
        case StoreUnavailable():
            return _unavailable(error)
        case TaskyardError():
            return _ours(error)
        case HTTPException():
            return _http(error)
        case ParseException():
            return _broken_off()
        case _:
            return _unexpected(error)


def problem(
    status: int, detail: str, fields: Sequence[Mapping[str, str]] = (), **headers: str
) -> Response:
    """A problem document as a response."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": detail,
        "errors": list(fields),
        "requestId": g.get("request_id", ""),
    }
    response = Response(json.dumps(body), status, mimetype="application/problem+json")
    for name, value in headers.items():
        response.headers[name.replace("_", "-")] = value
    return response


def _ours(error: TaskyardError) -> Response:
    fields = error.errors if isinstance(error, InvalidRequest) else ()
    if error.status == HTTPStatus.UNAUTHORIZED:
        return problem(error.status, str(error), WWW_Authenticate="Bearer")
    return problem(error.status, str(error), fields)


def _http(error: HTTPException) -> Response:
    """What Flask and webargs raise; a validation error names its fields."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    if status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        status = HTTPStatus.BAD_REQUEST
    messages = getattr(error, "data", None) or {}
    fields = list(_fields(messages.get("messages") or {}))
    if fields:
        detail = "; ".join(f"{field['field']}: {field['message']}" for field in fields[:5])
    else:
        detail = error.description or HTTPStatus(status).phrase
    response = problem(status, detail, fields)
    for name, value in error.get_headers(request.environ):
        if name not in ("Content-Type", "Content-Length"):
            response.headers.setdefault(name, value)
    return response


def _broken_off() -> Response:
    """Gunicorn finds out what is wrong with a chunked body when the body is read."""
    return problem(HTTPStatus.BAD_REQUEST, "The body cannot be read: its chunks are broken.")


def _unavailable(error: Exception) -> Response:
    events.warn("api.store_unavailable", error=type(error).__name__, path=request.path)
    detail = "MongoDB does not answer, or not on a majority of its members; try again."
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, Retry_After=str(RETRY_AFTER_SECONDS))


def _unexpected(error: Exception) -> Response:
    """The database is away; or a defect of ours: the client learns that, the log the rest."""
    if is_unavailable(error):
        return _unavailable(error)
    events.error("api.failed", error, path=request.path, request=g.get("request_id", ""))
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")


def _fields(messages: Any, path: str = "") -> Iterator[dict[str, str]]:
    """Each message of a tree of marshmallow's with its dotted path; locations are left out."""
    if isinstance(messages, Mapping):
        for name, below in messages.items():
            top = not path and name in ("json", "query", "form", "files", "headers")
            inner = path if top or name == "_schema" else f"{path}.{name}".lstrip(".")
            yield from _fields(below, inner)
    elif isinstance(messages, (list, tuple)):
        for message in messages:
            yield from _fields(message, path)
    else:
        yield {"field": path or "body", "message": str(messages)}
