"""The page of the system: ticks, passes, the broker's queues and dead letters, MongoDB."""

from __future__ import annotations

from typing import Any

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard import system
from taskyard.api.auth import caller
from taskyard.api.base import platform
from taskyard.dashboard.blueprint import blueprint
from taskyard.errors import InvalidRequest, NotFound

#: The most passes and dead letters that the page shows.
PASSES = 30
LETTERS = 50


@blueprint.get("/system")
def show_system() -> str:
    """Show the state of scheduler, ticks, broker and database."""
    return render_template(
        "system.html",
        state=system.state(platform(), passes=PASSES),
        done=_done(),
        letters=system.inspection(platform()).dead_letters(limit=LETTERS),
    )


@blueprint.post("/system/dead-letters")
def act_on_letters() -> Response:
    """Requeue or drop the selected dead letters."""
    ids, action = request.form.getlist("letter"), request.form.get("action", "")
    acts = {"requeue": system.requeue, "drop": system.drop}
    if action not in acts:
        raise NotFound("action", action)
    if not 1 <= len(ids) <= LETTERS:
        raise InvalidRequest(f"Select 1 to {LETTERS} dead letters.", field="letter")
    count = acts[action](platform(), ids, by=caller().name)
    return redirect(url_for("dashboard.show_system", did=action, count=count), 303)


def _done() -> dict[str, Any] | None:
    """Return what was done to how many dead letters, from the query of the redirect."""
    did = request.args.get("did")
    if did not in ("requeue", "drop"):
        return None
    return {"did": did, "count": request.args.get("count", 0, type=int)}
