"""The list of jobs, and the page of one job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import render_template, request

from taskyard.api import paging
from taskyard.api.base import base_url, platform
from taskyard.dashboard import presenters, snippets, timeline
from taskyard.dashboard.blueprint import blueprint
from taskyard.errors import InvalidRequest, NotFound
from taskyard.jobs import search_terms
from taskyard.jobs.model import Job
from taskyard.jobs.search import EVERYTHING, Search, in_states
from taskyard.jobs.states import LIVE, JobStatus
from taskyard.store.chunks import Chunk
from taskyard.store.queries import Page, Tally
from taskyard.waiting import explain, reasons

PAGE = 50

#: Request header for a part of a page; the part ``rows`` is the list without most counts.
PART = "Taskyard-Part"

#: The most output that a page has for browsers without scripts; the API's route has all of it.
SHOWN_CHARACTERS = 64 * 1024

#: How many of the last attempts a page links to, for their output.
SHOWN_ATTEMPTS = 20

#: The most retries of a job that its page links to.
SHOWN_RETRIES = 20


@blueprint.get("/")
def jobs() -> Any:
    """List jobs, newest first, filtered by status and a search, in pages."""
    queries = platform().store.queries
    status, q = request.args.get("status") or "", (request.args.get("q") or "").strip()
    if status not in {"", *JobStatus}:
        raise NotFound("status", status)
    wrong = None
    search, page = EVERYTHING, Page()
    try:
        search = search_terms.parse(q, now=platform().store.clock.now())
        page = queries.page(
            search & in_states([JobStatus(status)]) if status else search,
            limit=PAGE,
            after=paging.decode(request.args.get("after")),
        )
    except InvalidRequest as error:
        if error.field != "q":
            raise
        wrong = str(error)
    shown = render_template(
        "jobs.html",
        rows=_rows(page.jobs),
        next=paging.encode(page.next),
        looked_back_to=page.looked_back_to,
        after=request.args.get("after"),
        status=status,
        statuses=list(JobStatus),
        tally=_tally(search),
        q=q,
        wrong=wrong,
        done=_done(),
    )
    return (shown, 422) if wrong else shown


@blueprint.get("/jobs/<job_id>")
def job(job_id: str) -> str:
    """Show one job: its state, why it waits, its timeline, inputs and output."""
    store = platform().store
    found, now = store.jobs.get(job_id), store.clock.now()
    attempt = _shown_attempt(found)
    chunks, more = _head_of_output(found, attempt)
    return render_template(
        "job.html",
        job=found,
        waiting=explain(platform(), found),
        timeline=timeline.draw(found, now),
        attempt=attempt,
        attempts_shown=range(
            max(1, found.output_attempt - SHOWN_ATTEMPTS + 1), found.output_attempt + 1
        ),
        chunks=chunks,
        more=more,
        curl=snippets.as_curl(found, base_url()),
        command_line=snippets.as_command(found),
        retries=store.queries.retries_of(job_id, limit=SHOWN_RETRIES),
    )


def _rows(found: Sequence[Job]) -> list[presenters.JobRow]:
    """Return the list's rows as text; a template would take several times as long."""
    now, waiting = platform().store.clock.now(), reasons(platform(), found)
    return [presenters.job_row(job, now, waiting.get(job.job_id)) for job in found]


def _tally(search: Search) -> Tally:
    """Return the number of jobs by status.

    Counting is most of a page's work, and rows alone are requested up to once a second. So with
    rows alone only live jobs are counted, which are few, and none while there is a search.
    """
    queries = platform().store.queries
    if request.headers.get(PART) != "rows":
        return queries.tally(search)
    return Tally() if search.conditions else queries.tally(in_states(LIVE))


def _done() -> dict[str, Any] | None:
    """Return what an action on many jobs did, from the query of its redirect."""
    did = request.args.get("did")
    if did not in ("cancel", "retry"):
        return None
    return {"did": did, **{n: request.args.get(n, 0, type=int) for n in ("count", "refused")}}


def _shown_attempt(found: Job) -> int | None:
    """Return the earlier attempt whose output was asked for; None means the latest."""
    asked = request.args.get("attempt", type=int)
    return asked if asked is not None and 1 <= asked < found.output_attempt else None


def _head_of_output(found: Job, attempt: int | None) -> tuple[Sequence[Chunk], bool]:
    """Return the first characters of the output, and whether there are more."""
    chunks: list[Chunk] = []
    room = SHOWN_CHARACTERS
    for chunk in platform().store.output.read(found, attempt=attempt):
        if room <= 0:
            return chunks, True
        cut = chunk.data[:room]
        chunks.append(Chunk(seq=chunk.seq, stream=chunk.stream, data=cut))
        room -= len(chunk.data)
    return chunks, room < 0
