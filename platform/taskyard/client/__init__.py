"""The Python client of the API, for apps and for the command line."""

from __future__ import annotations

from taskyard.client.client import Client, Event

__all__ = ["Client", "Event"]
