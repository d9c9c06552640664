"""Turns every error into a problem document (RFC 9457); no other module does."""

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

#: How soon a client may try again while MongoDB has no primary.
RETRY_AFTER_SECONDS = 2


class Invalid(InvalidRequest):
    """A request with invalid values; ``messages`` is a tree of messages as marshmallow has it."""

    def __init__(self, messages: Mapping[str, Any]) -> None:
        self._fields = list(_fields(messages))
        super().__init__("; ".join(f"{f['field']}: {f['message']}" for f in self._fields[:5]))

    @property
    def errors(self) -> Sequence[Mapping[str, str]]:
        """One entry for each invalid field."""
        return self._fields


def loaded(schema: ma.Schema, sent: Any) -> dict[str, Any]:
    """Load a request that a route parses itself. Raises Invalid."""
    try:
        fields: dict[str, Any] = schema.load(sent)
    except ma.ValidationError as error:
        raise Invalid({"": error.messages}) from None
    return fields


def install(app: Flask) -> None:
    """Answer every error of ``app`` with a problem document."""
    app.register_error_handler(Exception, answer)


def answer(error: Exception) -> Response:
    """Return the problem document of any error; errors that no client caused are logged as well."""
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
    """Return a problem document as a response; underscores in header names become hyphens."""
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
    """Answer an error of Flask or webargs; a validation error names its fields."""
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
    """Answer a broken chunked body, which gunicorn notices only while the body is read."""
    return problem(HTTPStatus.BAD_REQUEST, "The body cannot be read: its chunks are broken.")


def _unavailable(error: Exception) -> Response:
    events.warn("api.store_unavailable", error=type(error).__name__, path=request.path)
    detail = "MongoDB does not answer, or not on a majority of its members; try again."
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, Retry_After=str(RETRY_AFTER_SECONDS))


def _unexpected(error: Exception) -> Response:
    """Answer 503 if the database is away; else it is a defect, whose details only the log has."""
    if is_unavailable(error):
        return _unavailable(error)
    events.error("api.failed", error, path=request.path, request=g.get("request_id", ""))
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")


def _fields(messages: Any, path: str = "") -> Iterator[dict[str, str]]:
    """Yield each message of marshmallow's tree with its dotted path, without the location."""
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
