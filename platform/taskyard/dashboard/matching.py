"""Cancels or runs again all jobs that a search finds: counts them first, then acts in batches."""

from __future__ import annotations

import time
from typing import Any

from flask import redirect, render_template, request, url_for

from taskyard import bulk
from taskyard.api import paging
from taskyard.api.auth import caller
from taskyard.api.base import platform
from taskyard.bulk import Action, Task
from taskyard.clock import epoch_ms, from_epoch_ms
from taskyard.dashboard.blueprint import blueprint
from taskyard.dashboard.job_actions import reason
from taskyard.errors import InvalidRequest, NotFound
from taskyard.jobs import search_terms
from taskyard.store.searches import Position

#: How long one request works; the page then shows the progress and sends the next request.
WORK_SECONDS = 3.0


@blueprint.post("/jobs/act-on-all")
def act_on_matching() -> Any:
    """Show how many jobs match; once confirmed, act on them, in several requests if need be."""
    form = request.form
    task = _task()
    if form.get("sure") != "yes":
        return _page(task, count=bulk.count(platform(), task))
    after = paging.decode(form.get("after") or None)
    done, skipped, after = _work(task, after)
    done += form.get("done", 0, type=int)
    skipped += form.get("skipped", 0, type=int)
    if after is not None:
        meant = form.get("meant", 0, type=int)
        return _page(task, after=paging.encode(after), done=done, skipped=skipped, meant=meant)
    return redirect(
        url_for("dashboard.jobs", did=str(task.action), count=done, refused=skipped), 303
    )


def _work(task: Task, after: Position | None) -> tuple[int, int, Position | None]:
    """Act on batches until all are done or ``WORK_SECONDS`` are over; return sums and the rest."""
    done, skipped, ends = 0, 0, time.monotonic() + WORK_SECONDS
    while True:
        batch = bulk.act(platform(), task, after=after)
        done, skipped, after = done + len(batch.job_ids), skipped + batch.skipped, batch.next
        if after is None or time.monotonic() > ends:
            return done, skipped, after


def _task() -> Task:
    """Return the form's task. Raises NotFound, and InvalidRequest also for an empty search."""
    form = request.form
    action, q = form.get("action", ""), form.get("q", "")
    if action not in set(Action):
        raise NotFound("action", action)
    try:
        given = form.get("as_of")
        told = from_epoch_ms(int(given)) if given else None
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest("This is no instant.", field="as_of") from None
    as_of = bulk.bound(told, now=platform().store.clock.now(), field="as_of")
    search = search_terms.parse(q, now=as_of)
    if not search.conditions:
        raise InvalidRequest("Say which jobs: search, or choose a state.", field="q")
    return Task(
        action=Action(action), search=search, as_of=as_of, by=caller().name, reason=reason()
    )


def _page(task: Task, **values: Any) -> str:
    return render_template(
        "matching.html",
        task=task,
        q=request.form.get("q", ""),
        as_of=epoch_ms(task.as_of),
        **values,
    )
