"""Identifiers: ``job-<epoch ms>-<random>``; those of leases are random only."""

from __future__ import annotations

import secrets
from datetime import datetime

from taskyard.clock import epoch_ms


def new(kind: str, now: datetime) -> str:
    """A new identifier that nobody can guess and that sorts by time."""
    return f"{kind}-{epoch_ms(now)}-{secrets.token_hex(6)}"


def lease() -> str:
    """A new lease id."""
    return secrets.token_hex(12)
