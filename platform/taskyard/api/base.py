"""What every API module builds on: the parser, the blueprint and the platform at hand."""

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
from taskyard.context import Platform
from taskyard.errors import NoRoom, UnreadableRequest

#: What becomes of a file that is received where no temporary folder takes it.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EROFS})


class ProblemSchema(ma.Schema):
    """An RFC 9457 problem document; ``error`` is what the earlier system's clients read."""

    type = ma.fields.String(required=True)
    title = ma.fields.String(required=True)
    status = ma.fields.Integer(required=True)
    detail = ma.fields.String(required=True)
    error = ma.fields.String(required=True)
    errors = ma.fields.List(ma.fields.Dict())
    requestId = ma.fields.String()  # noqa: N815 - the API's own spelling


class ProblemApi(flask_smorest.Api):  # type: ignore[misc] # flask-smorest publishes no types
    """The API with our problem documents; ``errors.install`` answers errors, not smorest."""

    ERROR_SCHEMA = ProblemSchema

    def _register_error_handlers(self) -> None:
        """Errors are mapped in one place, ``api.errors``."""

    def _openapi_json(self) -> Any:
        """The description, with errors as problem documents and the way to sign in."""
        described = self.spec.to_dict()
        for response in described["components"]["responses"].values():
            # All that are shared are errors.
            if content := response["content"].pop("application/json", None):
                response["content"]["application/problem+json"] = content
        described["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
        return current_app.response_class(json.dumps(described), mimetype="application/json")


class Parser(FlaskParser):
    """Reads bodies strictly: what is no JSON is a 400, what is unknown a 422."""

    DEFAULT_UNKNOWN_BY_LOCATION = {  # noqa: RUF012 - webargs declares it so
        "json": None,
        "query": None,
        "headers": ma.EXCLUDE,
        "form": None,
        "files": None,
    }

    def load_json(self, req: Request, _schema: ma.Schema) -> Any:
        """The body of a request, or an UnreadableRequest."""
        return read_json(req)

    def load_querystring(self, req: Request, schema: ma.Schema) -> Any:
        """The query. Raises Invalid."""
        return _each_once(super().load_querystring(req, schema))

    def load_form(self, req: Request, schema: ma.Schema) -> Any:
        """The fields of a form. Raises Invalid."""
        return _each_once(super().load_form(req, schema))

    def load_files(self, req: Request, schema: ma.Schema) -> Any:
        """The files of a form. Raises Invalid."""
        return _each_once(super().load_files(req, schema))


class _Form(FormDataParser):
    """Werkzeug's parser of forms, but one that cannot be read is an error and not an empty form."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        """The form. Raises UnreadableRequest, NoRoom."""
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
    """Flask's, with forms as we read them."""

    form_data_parser_class = _Form


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc] # flask-smorest publishes no types
    """A group of routes that reads its arguments with our parser."""

    ARGUMENTS_PARSER = Parser()

    def arguments(self, schema: Any, **kwargs: Any) -> Any:
        """Read arguments by a schema that is made once: webargs makes one for each request from a
        class.
        """
        made = schema() if isinstance(schema, type) else schema
        return super().arguments(made, **kwargs)


def platform() -> Platform:
    """The platform that this application was made for."""
    return cast(Platform, current_app.extensions["platform"])


def refuse_repeated(given: MultiDict[str, Any], lists: Collection[str] = ()) -> None:
    """Refuse what is given twice and is no list: the second would be dropped without a word.

    Raises Invalid.
    """
    twice = {name for name, values in given.lists() if len(values) > 1} - set(lists)
    if twice:
        raise errors.Invalid({name: ["Is given more than once."] for name in sorted(twice)})


def _each_once(proxy: MultiDictProxy) -> MultiDictProxy:
    refuse_repeated(cast(MultiDict[str, Any], proxy.data), proxy.multiple_keys)
    return proxy


def read_json(req: Request | None = None) -> Any:
    """The JSON body of the request. Raises UnreadableRequest."""
    source = req or request
    if not source.is_json:
        raise UnreadableRequest("The body must be JSON, with Content-Type: application/json.")
    try:
        sent = source.get_data()
        return _decode(sent.decode(json.detect_encoding(sent), "surrogatepass"))
    except (ValueError, RecursionError):
        raise UnreadableRequest("The body is not valid JSON.") from None


def _refuse_constant(_: str) -> NoReturn:
    """NaN and Infinity are no JSON."""
    raise ValueError("not JSON")


#: Made once: ``json.loads`` would make a decoder for each body.
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def base_url() -> str:
    """Scheme and host that the asker used, so that agents elsewhere can come back to us."""
    return request.host_url.rstrip("/")
