"""The blueprint of all pages: values for templates, response headers, and errors as pages."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from flask import Blueprint, g, json, render_template, request, url_for
from werkzeug.urls import iri_to_uri
from werkzeug.wrappers import Response

from taskyard import __version__
from taskyard.api import errors
from taskyard.api.auth import Caller
from taskyard.api.base import platform
from taskyard.dashboard import presenters
from taskyard.jobs import search_terms
from taskyard.store.tokens import Role

#: The cookie with the chosen theme; without it the browser's preference decides.
THEME_COOKIE = "taskyard_theme"
THEMES = ("light", "dark")

_HEADERS = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=()",
}

blueprint = Blueprint(
    "dashboard",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/static",
)


@blueprint.context_processor
def helpers() -> dict[str, Any]:
    """Return the values and functions that every template may use."""
    asking: Caller | None = g.get("caller")
    chosen = request.cookies.get(THEME_COOKIE)
    return {
        "show": presenters,
        "quoted": search_terms.quoted,
        "job_url": _addresses("dashboard.job", "job_id"),
        "worker_url": _addresses("dashboard.worker", "id"),
        "now": platform().store.clock.now(),
        "may_act": asking is not None and Role.OPERATOR in asking.roles,
        "signed_in": asking is not None and platform().settings.auth,
        "theme": chosen if chosen in THEMES else None,
        "version": __version__,
        "here": iri_to_uri(request.full_path.rstrip("?")) if request.method == "GET" else "/",
    }


def _addresses(endpoint: str, name: str) -> Callable[[str], str]:
    """Return a function that puts a value into an address; faster than ``url_for`` for each row."""
    example: dict[str, Any] = {name: "-"}
    begin = url_for(endpoint, **example).removesuffix("-")
    return lambda value: begin + quote(value, safe="")


@blueprint.after_request
def add_headers(response: Response) -> Response:
    """Add the headers of pages; those of every response are added in ``api.app``.

    Pages must not be cached, because each is made for one reader.
    """
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if "Sec-Fetch-Site" in request.headers:
        # Over plain HTTP browsers ignore this header and log an error; they send no Sec-Fetch-Site.
        response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    if request.endpoint != "dashboard.static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response


@blueprint.errorhandler(Exception)
def explain_error(error: Exception) -> Response:
    """Return any error as a page, with the words and status of the API."""
    return _as_page(errors.answer(error))


@blueprint.app_errorhandler(HTTPStatus.NOT_FOUND)
@blueprint.app_errorhandler(HTTPStatus.METHOD_NOT_ALLOWED)
def explain_address(error: Exception) -> Response:
    """Return 404 and 405 of unknown addresses, as a page if a browser asks for one."""
    explained = errors.answer(error)
    asks = "text/html" in request.headers.get("Accept", "")
    if not asks or request.path.startswith("/api/"):
        return explained
    return add_headers(_as_page(explained))


def _as_page(explained: Response) -> Response:
    problem = json.loads(explained.get_data())
    # Without a route the context processor is not called, so its values are passed here.
    explained.set_data(render_template("error.html", problem=problem, **helpers()))
    explained.mimetype = "text/html"
    return explained
