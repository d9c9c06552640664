"""The HTTP API: schemas in, use-cases, schemas out."""

from taskyard.api.app import create_app

__all__ = ["create_app"]
