"""Routes for health: does this process answer (healthz), does the platform work (readyz)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Blueprint

from taskyard import __version__
from taskyard.api.base import platform
from taskyard.context import Platform
from taskyard.stats.alarms import is_silent
from taskyard.store.failures import is_not_allowed, is_unavailable

#: Why a tick did not run though a scheduler is alive; web cannot tell which of the two it is.
_NO_TICKS = "beat sends no ticks, or the scheduler is busy"

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Any:
    """Answer that this process is alive."""
    return {"status": "ok", "version": __version__}


@blueprint.get("/readyz")
def readyz() -> Any:
    """Answer whether the platform can take jobs and run them; 503 if a part is missing."""
    checks = _checks(platform())
    ready = all(check["ok"] for check in checks.values())
    answer = {"status": "ok" if ready else "failing", "version": __version__, "checks": checks}
    return answer, 200 if ready else 503


def _checks(here: Platform) -> dict[str, dict[str, Any]]:
    if obstacle := here.store.obstacle():
        return {"mongodb": _check(False, obstacle)}
    try:
        return {"mongodb": _check(True, "has a primary"), **_parts(here)}
    except Exception as error:
        # MongoDB may also refuse: our user was removed there, or lost its rights.
        if not (is_unavailable(error) or is_not_allowed(error)):
            raise
        return {"mongodb": _check(False, type(error).__name__)}


def _parts(here: Platform) -> dict[str, dict[str, Any]]:
    """Check what runs beside web: schedulers, the ticks that beat sends them, agents."""
    settings, locks, now = here.settings, here.store.locks, here.store.clock.now()
    seen = locks.scheduler_seen_at()
    alive = not is_silent(seen, now, settings.health_tick_seconds)
    words = f"last seen {_ago(seen, now)}"
    checks = {"scheduler": _check(alive, words if alive else f"no scheduler is alive: {words}")}
    ticks = locks.ticks()
    for name in ("timeouts", "health", "assignment"):
        ran = ticks.get(name)
        fresh = not is_silent(ran, now, getattr(settings, f"{name}_tick_seconds"))
        missing = _NO_TICKS if alive else "no scheduler is alive"
        words = f"ran {_ago(ran, now)}"
        checks[f"tick.{name}"] = _check(fresh, words if fresh else f"{missing}: {words}")
    workers = here.store.workers.listed()
    online = sum(1 for worker in workers if not worker.is_offline(now, settings.offline_after))
    # A platform without agents is ready all the same: it takes jobs, which wait.
    checks["agents"] = _check(True, f"{online} of {len(workers)} online")
    return checks


def _check(ok: bool, detail: str) -> dict[str, Any]:
    return {"ok": ok, "detail": detail}


def _ago(at: datetime | None, now: datetime) -> str:
    return "never" if at is None else f"{(now - at).total_seconds():.1f} s ago"
