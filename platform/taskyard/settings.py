"""Settings: read once from the environment, checked, then passed around as one value.

Every setting is ``TASKYARD_<NAME>``; ``MONGODB_URI`` alone has the name that MongoDB's users
expect. Durations carry their unit in the name. ``docs/operations.md`` lists them all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from taskyard.errors import ConfigurationError

MIB = 1024 * 1024

#: Variables of the agent's own environment that a job may see: where programs, time zone,
#: language and certificates are found. Everything else stays with the agent.
PASSED_TO_JOBS = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings with their defaults (``design.md`` section 3 gives the numbers' reasons)."""

    #: Holds a password: it is in no log and no error.
    mongodb_uri: str = field(default="", repr=False)
    database: str = "taskyard"
    #: Address the web process listens on; anything but loopback needs tokens.
    bind: str = "127.0.0.1:8000"
    #: Tokens are asked for unless this is off, which only a loopback address may be.
    auth: bool = True
    data_dir: Path = field(default_factory=lambda: Path(platformdirs.user_data_dir("taskyard")))

    # Leases and ticks
    lease_seconds: float = 15
    renewal_seconds: float = 5
    http_lease_seconds: float = 30
    offline_seconds: float = 30
    cooldown_seconds: float = 30
    start_deadline_seconds: float = 15
    timeouts_tick_seconds: float = 2
    health_tick_seconds: float = 5
    assignment_tick_seconds: float = 5
    retention_tick_seconds: float = 60
    statistics_tick_seconds: float = 30
    reserve_after_seconds: float = 60

    # Retention
    job_retention_days: float = 30
    worker_retention_days: float = 7
    upload_retention_days: float = 30

    # Bounds
    output_cap_bytes: int = 64 * MIB
    upload_cap_bytes: int = 1024 * MIB
    body_cap_bytes: int = 36 * MIB
    archive_cap_bytes: int = 2048 * MIB
    archive_cap_entries: int = 50_000
    result_cap_bytes: int = 512 * MIB

    # Agent
    worker_id: str = ""
    labels: tuple[str, ...] = ()
    max_jobs: int = 0
    cpu_count: float = 0
    ram_total_mb: float = 0
    workspace_dir: Path | None = None
    job_env_pass: tuple[str, ...] = PASSED_TO_JOBS
    kill_grace_seconds: float = 5
    drain_grace_seconds: float = 60
    #: Time an attempt has beyond its timeout to pack and deliver what it left.
    finish_grace_seconds: float = 60
    cancel_poll_seconds: float = 0.5
    output_flush_seconds: float = 0.1

    log_level: str = "INFO"
    #: ``json`` or ``text``; empty means text on a terminal and JSON elsewhere.
    log_format: str = ""


def load() -> Settings:
    """Read the settings from the process's environment.

    Raises ConfigurationError that names the variable.
    """
    values: dict[str, Any] = {"mongodb_uri": os.environ.get("MONGODB_URI", "")}
    for setting in fields(Settings):
        name = f"TASKYARD_{setting.name.upper()}"
        if setting.name == "mongodb_uri" or name not in os.environ:
            continue
        read, kind = _READERS[str(setting.type)]
        try:
            values[setting.name] = read(os.environ[name])
        except (ValueError, OverflowError):
            given = os.environ[name]
            raise ConfigurationError(f"{name} must be {kind}, not {given!r}.") from None
    return check(Settings(**values))


def check(settings: Settings) -> Settings:
    """Return ``settings`` if they can work together.

    Raises ConfigurationError that names the setting.
    """
    if settings.renewal_seconds * 2 > settings.lease_seconds:
        raise ConfigurationError(
            "TASKYARD_RENEWAL_SECONDS must be at most half of TASKYARD_LEASE_SECONDS, "
            "or one late renewal loses the lease."
        )
    for name in ("lease_seconds", "http_lease_seconds", "offline_seconds", "output_cap_bytes"):
        if getattr(settings, name) <= 0:
            raise ConfigurationError(f"TASKYARD_{name.upper()} must be greater than 0.")
    if settings.log_format not in ("", "json", "text"):
        raise ConfigurationError("TASKYARD_LOG_FORMAT must be json or text.")
    if not settings.auth and not is_loopback(settings.bind):
        raise ConfigurationError(
            f"TASKYARD_AUTH=off is for loopback only, but TASKYARD_BIND is {settings.bind}."
        )
    return settings


def is_loopback(bind: str) -> bool:
    """Whether ``host:port`` (or a Unix socket) can be reached from this machine alone."""
    if bind.startswith("unix:"):
        return True
    try:
        host = urlsplit(f"//{bind}").hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "t", "yes", "y", "on"):
        return True
    if word in ("0", "false", "f", "no", "n", "off"):
        return False
    raise ValueError


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",")) if text else ()


#: How each type of setting is read, and what it is called.
_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": (_truth, "on or off"),
    "str": (str, "text"),
    "float": (_number, "a number"),
    "int": (int, "a whole number"),
    "Path": (Path, "a path"),
    "Path | None": (Path, "a path"),
    "tuple[str, ...]": (_words, "words with commas between"),
}
