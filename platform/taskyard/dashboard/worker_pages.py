"""The list of workers, and the page of one worker.

Workers choose their ids, so addresses have the id in the query, where any character may be.
"""

from __future__ import annotations

from collections import Counter

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from taskyard import operations
from taskyard.api import representations
from taskyard.api.base import platform
from taskyard.dashboard.blueprint import blueprint
from taskyard.errors import NotFound
from taskyard.jobs.search import Field, equal
from taskyard.workers.model import WorkerStatus

#: The newest jobs of a worker that its page looks at; those that ended are shown and counted.
HISTORY = 50


@blueprint.get("/workers")
def workers() -> str:
    """List all workers, with their reserved resources."""
    shown = representations.workers()
    counts = Counter(worker["status"] for worker in shown)
    return render_template(
        "workers.html", workers=shown, counts=counts, statuses=list(WorkerStatus)
    )


@blueprint.get("/worker")
def worker() -> str:
    """Show one worker: its state, the jobs that it has, and those that it had."""
    store, worker_id = platform().store, _worker_id(request.args.get("id"))
    found = next((w for w in representations.workers() if w["worker_id"] == worker_id), None)
    if found is None:
        raise NotFound("worker", worker_id)
    page = store.queries.page(equal(Field.WORKER, worker_id), limit=HISTORY)
    ended = sorted(
        (job for job in page.jobs if job.is_terminal),
        key=lambda job: job.completed_at or job.created_at,
        reverse=True,
    )
    tally = Counter(job.status for job in ended)
    return render_template(
        "worker.html",
        worker=found,
        live=store.live.held_by(worker_id),
        history=ended,
        tally=", ".join(f"{count} {status.lower()}" for status, count in tally.most_common()),
    )


@blueprint.post("/worker/<action>")
def worker_action(action: str) -> Response:
    """Drain, resume or delete a worker."""
    store, worker_id = platform().store, _worker_id(request.form.get("id"))
    if action == "delete":
        store.workers.soft_delete(worker_id, now=store.clock.now())
        return redirect(url_for("dashboard.workers"), 303)
    if action not in ("drain", "resume"):
        raise NotFound("action", action)
    operations.drain(platform(), worker_id, draining=action == "drain")
    return redirect(url_for("dashboard.worker", id=worker_id), 303)


def _worker_id(given: str | None) -> str:
    return (given or "")[:200].replace("\0", "")
