"""Swagger UI for the API, served from its Python package, so it needs no internet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import swagger_ui_bundle
from flask import Blueprint, Response, send_from_directory

blueprint = Blueprint("docs", __name__, url_prefix="/api/docs")

_UI = Path(swagger_ui_bundle.swagger_ui_path)
_HERE = Path(__file__).parent / "static"

#: The policy of all pages, plus ``data:`` images, which Swagger UI has in its styles.
_POLICY = (
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'"
)


@blueprint.get("/")
def page() -> Any:
    """The page with Swagger UI."""
    response: Response = send_from_directory(_HERE, "docs.html")
    response.headers["Content-Security-Policy"] = _POLICY
    return response


@blueprint.get("/start.js")
def script() -> Any:
    """The script that starts Swagger UI: a file, since the policy forbids inline scripts."""
    return send_from_directory(_HERE, "docs.js")


@blueprint.get("/ui/<path:name>")
def asset(name: str) -> Any:
    """A file of Swagger UI."""
    return send_from_directory(_UI, name)
