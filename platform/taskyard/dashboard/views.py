"""Imports the modules of all pages: each adds its routes to the blueprint."""

from __future__ import annotations

from taskyard.dashboard import (
    job_actions,
    job_pages,
    live,
    matching,
    overview_page,
    session,
    system_page,
    worker_pages,
)
from taskyard.dashboard.blueprint import blueprint

__all__ = [
    "blueprint",
    "job_actions",
    "job_pages",
    "live",
    "matching",
    "overview_page",
    "session",
    "system_page",
    "worker_pages",
]
