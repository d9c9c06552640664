"""Taskyard: a distributed task platform on Flask, Celery and MongoDB.

``taskyard.Client`` is the Python client; everything else is the platform itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskyard.client import Client

__all__ = ["Client", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load the client on first use, so that importing one part does not load the others."""
    if name == "Client":
        from taskyard.client import Client

        return Client
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
