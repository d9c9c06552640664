"""What all API modules share: request parsing, the blueprint class, the current platform."""

from __future__ import annotations

import errno
import json
from collections.abc import Collection
from typing import Any, NoReturn, cast

import flask_smorest
import marshmallow as ma
from flask import Request, current_app, request
from webargs.flaskparser import FlaskParser
from webargs.multidictproxy import MultiDictProxy
from werkzeug.datastructures import MultiDict
from werkzeug.formparser import FormDataParser

from taskyard import events
from taskyard.api import errors
from taskyard.api.schemas import ApiSchema
from taskyard.context import Platform
from taskyard.errors import NoRoom, UnreadableRequest

#: Errors of the host when its temporary folder is full, missing or read-only.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EROFS})


class ProblemSchema(ApiSchema):
    """An RFC 9457 problem document; ``error`` is for clients of the earlier system."""

    type = ma.fields.String(required=True)
    title = ma.fields.String(required=True)
    status = ma.fields.Integer(required=True)
    detail = ma.fields.String(required=True)
    error = ma.fields.String(required=True)
    errors = ma.fields.List(ma.fields.Dict())
    request_id = ma.fields.String()


class ProblemApi(flask_smorest.Api):  # type: ignore[misc] # flask-smorest publishes no types
    """smorest's API, described with our problem documents as its errors."""

    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        """Register nothing: ``api.errors`` answers all errors."""

    def _openapi_json(self) -> Any:
        """Return the OpenAPI document, with problem documents as errors and bearer tokens."""
        described = self.spec.to_dict()
        for response in described["components"]["responses"].values():
            # All shared responses are errors.
            if content := response["content"].pop("application/json", None):
                response["content"]["application/problem+json"] = content
        # smorest's pagination: our pages have a token in the body instead.
        described["components"].pop("headers", None)
        described["components"]["schemas"].pop("PaginationMetadata", None)
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
        return current_app.response_class(json.dumps(described), mimetype="application/json")


class Parser(FlaskParser):
    """Parses requests strictly: a body that is not JSON gives 400, an unknown field 422."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs declares it so
        "json": None,
        "query": None,
        "headers": ma.EXCLUDE,
        "form": None,
        "files": None,
    }

    def load_json(self, req: Request, _schema: ma.Schema) -> Any:
        """Return the body. Raises UnreadableRequest."""
        return read_json(req)

    def load_querystring(self, req: Request, schema: ma.Schema) -> Any:
        """Return the query's parameters. Raises Invalid."""
        return _each_once(super().load_querystring(req, schema))

    def load_form(self, req: Request, schema: ma.Schema) -> Any:
        """Return the text fields of a form. Raises Invalid."""
        return _each_once(super().load_form(req, schema))

    def load_files(self, req: Request, schema: ma.Schema) -> Any:
        """Return the files of a form. Raises Invalid."""
        return _each_once(super().load_files(req, schema))


class _Form(FormDataParser):
    """Werkzeug's form parser, but an unreadable form is an error instead of an empty form."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        """Return the form. Raises UnreadableRequest, NoRoom."""
        self.silent = False
        try:
            return super().parse(*args, **kwargs)
        except ValueError:
            raise UnreadableRequest("The body is not a valid form.") from None
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            events.warn("api.no_room", error=str(error))
            raise NoRoom(
                "The host of this API has no room to receive a file: its temporary folder is full, "
                "or cannot be written to."
            ) from None


class FormRequest(Request):
    """Flask's request, which parses forms with ``_Form``."""

    form_data_parser_class = _Form


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc] # flask-smorest publishes no types
    """A group of routes whose arguments are parsed by our parser."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: Any, **kwargs: Any) -> Any:
        """Parse arguments with one instance of the schema: from a class, webargs would make one for
        each request.
        """
        made = schema() if isinstance(schema, type) else schema
        return super().arguments(made, **kwargs)


def platform() -> Platform:
    """Return the platform that the current application serves."""
    return cast(Platform, current_app.extensions["platform"])


def refuse_repeated(given: MultiDict[str, Any], lists: Collection[str] = ()) -> None:
    """Raise Invalid for parameters that are given more than once, except those in ``lists``.

    Otherwise all values but the first would be dropped silently.
    """
    twice = {name for name, values in given.lists() if len(values) > 1} - set(lists)
    if twice:
        raise errors.Invalid({name: ["Is given more than once."] for name in sorted(twice)})


def _each_once(proxy: MultiDictProxy) -> MultiDictProxy:
    refuse_repeated(cast(MultiDict[str, Any], proxy.data), proxy.multiple_keys)
    return proxy


def read_json(req: Request | None = None) -> Any:
    """Return the JSON body of the request. Raises UnreadableRequest."""
    source = req or request
    if not source.is_json:
        raise UnreadableRequest("The body must be JSON, with Content-Type: application/json.")
    try:
        sent = source.get_data()
        return _decode(sent.decode(json.detect_encoding(sent), "surrogatepass"))
    except (ValueError, RecursionError):
        raise UnreadableRequest("The body is not valid JSON.") from None


def _refuse_constant(_: str) -> NoReturn:
    """Raise ValueError for NaN and Infinity, which are not JSON."""
    raise ValueError("not JSON")


#: Made once: ``json.loads`` would make a decoder for each body, because of ``parse_constant``.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def base_url() -> str:
    """Return scheme and host as the caller used them: an address that works from its host."""
    return request.host_url.rstrip("/")
