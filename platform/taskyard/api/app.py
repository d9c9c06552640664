"""The Flask application: puts blueprints, limits and response headers together."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from flask import Flask, g

from taskyard import __version__
from taskyard.api import (
    auth,
    bulk,
    docs,
    errors,
    events,
    execute,
    files,
    health,
    job_schemas,
    jobs,
    metrics,
    overview,
    system,
    worker_schemas,
    workers,
)
from taskyard.api.base import FormRequest, ProblemApi
from taskyard.context import Platform
from taskyard.dashboard.views import blueprint as dashboard_blueprint

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # With "no-referrer" browsers send "Origin: null" with our own forms. Over plain HTTP, except to
    # localhost, they send no Sec-Fetch-Site either: our forms would look like those of other sites.
    ("Referrer-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'",
    ),
)


class _App(Flask):
    """Flask, which adds our headers to every response."""

    request_class = FormRequest

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``func``: no view is a coroutine, and Flask would check that on each request."""
        return func

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request. The headers are added here because werkzeug takes 50 µs to add them."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            present = {name.lower() for name, _ in headers}
            headers += [header for header in _HEADERS if header[0].lower() not in present]
            headers.append(("X-Request-Id", g.get("request_id", "")))
            if "cache-control" not in present and environ["PATH_INFO"].startswith("/api/"):
                headers.append(("Cache-Control", "no-store"))
            return start_response(status, headers, *exc_info)

        if environ.get("CONTENT_LENGTH"):
            # Gunicorn sets this for every request; werkzeug then trusts the end of the stream. A
            # body that the client broke off shows only when its length is checked.
            environ.pop("wsgi.input_terminated", None)
        return super().wsgi_app(environ, start)


def create_app(platform: Platform) -> Flask:
    """Create the web application for ``platform``."""
    app = _App("taskyard", static_folder=None)
    app.config.update(
        API_TITLE="Taskyard",
        API_VERSION=__version__,
        OPENAPI_VERSION="3.0.3",
        OPENAPI_URL_PREFIX="/api",
        MAX_CONTENT_LENGTH=platform.settings.body_cap_bytes,
        MAX_FORM_MEMORY_SIZE=platform.settings.body_cap_bytes,
        MAX_FORM_PARTS=64,
    )
    app.json.sort_keys = False  # type: ignore[attr-defined] # of the default provider
    app.extensions["platform"] = platform
    _name_requests(app)
    auth.install(app, platform)
    errors.install(app)
    api = ProblemApi(app)
    # The routes of these schemas parse requests themselves (one job or a list, JSON or multipart,
    # body or query), so smorest does not find the schemas.
    read_by_hand = (job_schemas.JobRequest, worker_schemas.ResultFields, worker_schemas.WorkerName)
    for schema in read_by_hand:
        api.spec.components.schema(schema.__name__, schema=schema)
    for part in (jobs, bulk, workers, execute, files, events, overview, system):
        api.register_blueprint(part.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(metrics.blueprint)
    app.register_blueprint(docs.blueprint)
    app.register_blueprint(dashboard_blueprint)
    return app


def _name_requests(app: Flask) -> None:
    @app.before_request
    def name_request() -> None:
        g.request_id = secrets.token_hex(8)
