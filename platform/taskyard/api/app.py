"""The Flask application: blueprints, limits and headers, put together once."""

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
    # Not "no-referrer": a form of ours would then name no origin, and over plain http under a
    # name of the network it could not be told from a foreign one.
    ("Referrer-Policy", "same-origin"),
    (
        "Content-Security-Policy",
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'",
    ),
)


class _App(Flask):
    """Flask, with headers of ours on whatever it answers."""

    request_class = FormRequest

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """The same: none of ours is a coroutine, and Flask would look again at each request."""
        return func

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer; the headers are added here, because werkzeug takes 50 µs for as many."""

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            present = {name.lower() for name, _ in headers}
            headers += [header for header in _HEADERS if header[0].lower() not in present]
            headers.append(("X-Request-Id", g.get("request_id", "")))
            if "cache-control" not in present and environ["PATH_INFO"].startswith("/api/"):
                headers.append(("Cache-Control", "no-store"))
            return start_response(status, headers, *exc_info)

        if environ.get("CONTENT_LENGTH"):
            # Gunicorn says so of every body; but one that its sender broke off ends too early, and
            # is told from a whole one by its length alone.
            environ.pop("wsgi.input_terminated", None)
        return super().wsgi_app(environ, start)


def create_app(platform: Platform) -> Flask:
    """The web application over ``platform``."""
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
    # Their routes read them by hand: lists, bodies of two kinds, and one that may be a query.
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
