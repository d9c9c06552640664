"""The system: ticks and passes with what they did, the broker's queues, dead letters, MongoDB."""

from __future__ import annotations

from typing import Any

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard import system
from taskyard.api.auth import caller
from taskyard.api.base import platform
from taskyard.dashboard.blueprint import blueprint
from taskyard.errors import InvalidRequest, NotFound

#: What one page shows.
PASSES = 30
LETTERS = 50


@blueprint.get("/system")
def show_system() -> str:
    """How the parts behind the pages stand."""
    return render_template(
        "system.html",
        state=system.state(platform(), passes=PASSES),
        done=_done(),
        letters=system.inspection(platform()).dead_letters(limit=LETTERS),
    )


@blueprint.post("/system/dead-letters")
def act_on_letters() -> Response:
    """Requeue or drop the dead letters that were selected."""
    ids, action = request.form.getlist("letter"), request.form.get("action", "")
    acts = {"requeue": system.requeue, "drop": system.drop}
    if action not in acts:
        raise NotFound("action", action)
    if not 1 <= len(ids) <= LETTERS:
        raise InvalidRequest(f"Select 1 to {LETTERS} dead letters.", field="letter")
    count = acts[action](platform(), ids, by=caller().name)
    return redirect(url_for("dashboard.show_system", did=action, count=count), 303)


def _done() -> dict[str, Any] | None:
    """What was done to dead letters, as the redirect tells: a word of ours and a number."""
    did = request.args.get("did")
    if did not in ("requeue", "drop"):
        return None
    return {"did": did, "count": request.args.get("count", 0, type=int)}
