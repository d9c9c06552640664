"""Settings: read once from the environment, checked, then passed around as one value.

Every setting is ``TASKYARD_<NAME>``; ``MONGODB_URI`` alone has the name that MongoDB's users
expect. Durations carry their unit in the name. ``docs/operations.md`` lists them all.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import platformdirs

from taskyard import addresses
from taskyard.errors import ConfigurationError
from taskyard.workers.model import LABEL_PATTERN

MIB = 1024 * 1024

#: Celery's settings of a checkout, for ops to edit; an installed wheel has no such file.
CELERYCONFIG = Path(__file__).resolve().parents[2] / "celeryconfig.py"

#: Variables of the agent's own environment that a job may see: where programs, time zone,
#: language and certificates are found. Everything else stays with the agent.
PASSED_TO_JOBS = ("PATH", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


DAY_SECONDS = 24 * 3600

#: The largest value of each unit: more is a mistake, and much more could not be stored.
_MOST = {"_seconds": 366 * DAY_SECONDS, "_days": 36_500, "_bytes": 2**53}
_MOST |= dict.fromkeys(("_jobs", "_count", "_mb", "_entries"), 2**31)

#: Numbers that may be 0, which means none, at once, or as much as there is.
_MAY_BE_ZERO = frozenset(
    {"cooldown_seconds", "reserve_after_seconds", "output_flush_seconds"}
    | {"kill_grace_seconds", "drain_grace_seconds", "finish_grace_seconds"}
    | {"upload_cap_bytes", "archive_cap_bytes", "archive_cap_entries", "result_cap_bytes"}
    | {"max_jobs", "cpu_count", "ram_total_mb"}
)

#: Names of databases that MongoDB accepts on every system and a URI can hold without escapes.
_DATABASE = re.compile(r"(?!(?:admin|config|local)\Z)[A-Za-z0-9_-]{1,63}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings with their defaults."""

    #: May hold a password, so it appears in no log and no error.
    mongodb_uri: str = field(default="", repr=False)
    database: str = "taskyard"
    #: Address the web process listens on; anything but loopback needs tokens.
    bind: str = "127.0.0.1:8000"
    #: Whether requests need a token; it may be off on a loopback address only.
    auth: bool = True
    data_dir: Path = field(default_factory=lambda: _own_data_dir())

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

    @property
    def offline_after(self) -> timedelta:
        """The silence after which a worker is OFFLINE."""
        return timedelta(seconds=self.offline_seconds)

    @property
    def job_retention(self) -> timedelta:
        """How long an ended job is kept."""
        return timedelta(days=self.job_retention_days)


def _own_data_dir() -> Path:
    """The folder of this user's data. A user without a home does not need it where MONGODB_URI is
    set; otherwise the error says that this path cannot be used.
    """
    try:
        return Path(platformdirs.user_data_dir("taskyard"))
    except RuntimeError:
        return Path("/nonexistent/taskyard")


def load() -> Settings:
    """Read the settings from the process's environment.

    Raises ConfigurationError, which names the variable.
    """
    # A secret made with `echo` ends with a newline, which would become part of the last option.
    values: dict[str, Any] = {"mongodb_uri": os.environ.get("MONGODB_URI", "").strip()}
    for setting in fields(Settings):
        name = f"TASKYARD_{setting.name.upper()}"
        if setting.name == "mongodb_uri" or name not in os.environ:
            continue
        read, kind = _READERS[str(setting.type)]
        if read is _path and not os.environ[name]:
            continue  # an empty path would be the folder that the process was started in
        try:
            values[setting.name] = read(os.environ[name])
        except (ValueError, OverflowError):
            given = os.environ[name]
            raise ConfigurationError(f"{name} must be {kind}, not {given!r}.") from None
    return check(Settings(**values))


def check(settings: Settings) -> Settings:
    """Return ``settings`` if they can work together.

    Raises ConfigurationError, which names the setting.
    """
    for setting in fields(Settings):
        if setting.type in ("float", "int"):
            _check_number(setting.name, getattr(settings, setting.name))
    if settings.renewal_seconds * 2 > settings.lease_seconds:
        raise ConfigurationError(
            "TASKYARD_RENEWAL_SECONDS must be at most half of TASKYARD_LEASE_SECONDS, "
            "or one late renewal loses the lease."
        )
    if settings.renewal_seconds * 2 > settings.offline_seconds:
        raise ConfigurationError(
            "TASKYARD_RENEWAL_SECONDS must be at most half of TASKYARD_OFFLINE_SECONDS, "
            "or workers that live are taken to be offline."
        )
    if settings.worker_retention_days * DAY_SECONDS <= settings.offline_seconds:
        raise ConfigurationError(
            "TASKYARD_WORKER_RETENTION_DAYS must be longer than TASKYARD_OFFLINE_SECONDS, "
            "or workers that live are forgotten."
        )
    if not _DATABASE.fullmatch(settings.database):
        raise ConfigurationError(
            "TASKYARD_DATABASE must be letters, digits, _ and -, at most 63 of them, and none of "
            f"MongoDB's own databases, not {settings.database!r}."
        )
    if len(settings.worker_id) > 200 or not settings.worker_id.isprintable():
        raise ConfigurationError(
            "TASKYARD_WORKER_ID must be at most 200 characters that can be shown, "
            f"not {settings.worker_id!r}."
        )
    for label in settings.labels:
        if not re.fullmatch(LABEL_PATTERN, label):
            raise ConfigurationError(
                "TASKYARD_LABELS must be labels with commas between, each 1 to 64 letters, digits "
                f"or _ . : / -, not {label!r}."
            )
    if settings.log_level.upper() not in logging.getLevelNamesMapping():
        raise ConfigurationError(
            "TASKYARD_LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL, "
            f"not {settings.log_level!r}."
        )
    if settings.log_format not in ("", "json", "text"):
        raise ConfigurationError("TASKYARD_LOG_FORMAT must be json or text.")
    if not addresses.is_address(settings.bind):
        raise ConfigurationError(
            "TASKYARD_BIND must be an address: web listens on a host and a port, such as "
            f"127.0.0.1:8000, or on unix:PATH, not on {settings.bind!r}."
        )
    if not settings.auth and not addresses.is_loopback(settings.bind):
        raise ConfigurationError(
            f"TASKYARD_AUTH=off is for loopback only, and web would listen on {settings.bind}."
        )
    return settings


def _check_number(name: str, value: float) -> None:
    """Raises ConfigurationError for a number that this setting may not have."""
    low = "at least 0" if name in _MAY_BE_ZERO else "greater than 0"
    high = next((most for unit, most in _MOST.items() if name.endswith(unit)), None)
    too_low = value < 0 or (value == 0 and name not in _MAY_BE_ZERO)
    if too_low or (high is not None and value > high):
        most = f" and at most {high}" if high is not None else ""
        raise ConfigurationError(f"TASKYARD_{name.upper()} must be {low}{most}, not {value:g}.")


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


def _path(text: str) -> Path:
    """A path; ``~`` is the home, which only a shell would have put in its place."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # there is no such user
        raise ValueError from None


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


#: How each type of setting is read, and what an error calls it.
_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": (_truth, "on or off"),
    "str": (str, "text"),
    "float": (_number, "a number"),
    "int": (int, "a whole number"),
    "Path": (_path, "a path"),
    "Path | None": (_path, "a path"),
    "tuple[str, ...]": (_words, "words with commas between"),
}
