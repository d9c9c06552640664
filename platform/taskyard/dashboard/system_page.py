"""The system: ticks and passes with what they did, the broker's queues, dead letters, MongoDB."""

from __future__ import annotations

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard import events
from taskyard.api.auth import caller
from taskyard.api.base import platform
from taskyard.broker.inspection import Inspection
from taskyard.dashboard.blueprint import blueprint
from taskyard.errors import InvalidRequest, NotFound
from taskyard.store import database

#: What one page shows.
PASSES = 30
LETTERS = 50


@blueprint.get("/system")
def system() -> str:
    """How the parts behind the pages stand."""
    store, broker = platform().store, _broker()
    return render_template(
        "system.html",
        seen_at=store.locks.last_sign_of_life("scheduler"),
        ticks=store.locks.tick_marks(),
        passes=store.passes.last(PASSES),
        queues=broker.queues(),
        dead=broker.count_dead(),
        letters=broker.dead_letters(limit=LETTERS),
        database=database.state(store.client, store.database),
    )


@blueprint.post("/system/dead-letters")
def act_on_letters() -> Response:
    """Requeue or drop the dead letters that were selected."""
    ids, action = request.form.getlist("letter"), request.form.get("action", "")
    acts = {"requeue": _broker().requeue, "drop": _broker().drop}
    if action not in acts:
        raise NotFound("action", action)
    if not 1 <= len(ids) <= LETTERS:
        raise InvalidRequest(f"Select 1 to {LETTERS} dead letters.", field="letter")
    count = acts[action](ids)
    done = {"requeue": "requeued", "drop": "dropped"}[action]
    events.emit("broker.dead_letters_handled", done=done, count=count, by=caller().name)
    return redirect(url_for("dashboard.system"), 303)


def _broker() -> Inspection:
    """The platform's messages are in the platform's database."""
    return Inspection(platform().store.database)
