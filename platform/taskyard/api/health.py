"""Whether the platform lives (healthz) and whether it works (readyz)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from flask import Blueprint

from taskyard import __version__
from taskyard.api.base import platform
from taskyard.context import Platform
from taskyard.store.client import UNAVAILABLE

#: Intervals without a tick after which beat or the scheduler is taken to be down.
SILENT_INTERVALS = 3

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Any:
    """This process answers."""
    return {"status": "ok", "version": __version__}


@blueprint.get("/readyz")
def readyz() -> Any:
    """The platform can take jobs and run them: 503 where a part is missing."""
    checks = _checks(platform())
    ready = all(check["ok"] for check in checks.values())
    answer = {"status": "ok" if ready else "failing", "version": __version__, "checks": checks}
    return answer, 200 if ready else 503


def _checks(here: Platform) -> dict[str, dict[str, Any]]:
    try:
        here.store.client.admin.command("ping")
        ticks, now = here.store.locks.ticks(), here.store.clock.now()
        workers = here.store.workers.listed()
    except UNAVAILABLE as error:
        return {"mongodb": {"ok": False, "detail": type(error).__name__}}
    checks: dict[str, dict[str, Any]] = {"mongodb": {"ok": True, "detail": "answers"}}
    for name in ("timeouts", "health", "assignment"):
        interval = getattr(here.settings, f"{name}_tick_seconds")
        age = (now - ticks[name]).total_seconds() if name in ticks else None
        fresh = age is not None and age <= SILENT_INTERVALS * interval
        words = "never ran" if age is None else f"ran {age:.1f} s ago"
        checks[f"tick.{name}"] = {"ok": fresh, "detail": words}
    offline_after = timedelta(seconds=here.settings.offline_seconds)
    online = sum(1 for worker in workers if not worker.is_offline(now, offline_after))
    # No agent is no fault of the platform: jobs are taken and wait.
    checks["agents"] = {"ok": True, "detail": f"{online} of {len(workers)} online"}
    return checks
