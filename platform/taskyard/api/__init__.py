"""The HTTP API: schemas validate requests, use-cases do the work, schemas shape the answers."""

from taskyard.api.app import create_app

__all__ = ["create_app"]
