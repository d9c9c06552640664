"""The blueprint of the pages: what every template may use, headers, and errors as pages."""

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

#: Remembers light or dark; without it the browser's own preference holds.
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
    """What every template may use."""
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
    """Addresses that differ in one value: Flask builds one of them, not one for each row."""
    example: dict[str, Any] = {name: "-"}
    begin = url_for(endpoint, **example).removesuffix("-")
    return lambda value: begin + quote(value, safe="")


@blueprint.after_request
def add_headers(response: Response) -> Response:
    """What pages carry beside the headers of every answer; they are for one reader alone."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    if "Sec-Fetch-Site" in request.headers:
        # Over plain http a browser ignores it, and complains; then it sends no such header either.
        response.headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    if request.endpoint != "dashboard.static":
        response.headers.setdefault("Cache-Control", "no-store")
    return response


@blueprint.errorhandler(Exception)
def explain_error(error: Exception) -> Response:
    """Any error as a page: what the API would say of it."""
    return _as_page(errors.answer(error))


@blueprint.app_errorhandler(HTTPStatus.NOT_FOUND)
@blueprint.app_errorhandler(HTTPStatus.METHOD_NOT_ALLOWED)
def explain_address(error: Exception) -> Response:
    """An address where nothing is: as a page where a browser asks for one."""
    explained = errors.answer(error)
    asks = "text/html" in request.headers.get("Accept", "")
    if not asks or request.path.startswith("/api/"):
        return explained
    return add_headers(_as_page(explained))


def _as_page(explained: Response) -> Response:
    problem = json.loads(explained.get_data())
    # Where no route was found none of ours is called to give templates what they may use.
    explained.set_data(render_template("error.html", problem=problem, **helpers()))
    explained.mimetype = "text/html"
    return explained
