"""The same API requests on databases of several sizes, and the query plans MongoDB uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from bench.common import median, print_table, quantile, timed_ms
from bench.passes import QUEUED, WORKERS, one_pass
from flask.testing import FlaskClient

from taskyard.api.app import create_app
from taskyard.context import Platform
from taskyard.jobs.model import Job
from taskyard.jobs.states import JobStatus
from taskyard.settings import Settings
from taskyard.store.client import Store

PROBE = "job-0-probe"
REQUESTS = {
    "listing, first page": "/api/jobs/list?limit=50",
    "listing, COMPLETED": "/api/jobs/list?limit=50&status=COMPLETED",
    "search by worker": "/api/jobs/list?limit=50&worker=agent7",
    "search by label": "/api/jobs/list?limit=50&label=gpu",
    "search by text": "/api/jobs/list?limit=50&text=nowhere",
    "status of a job": f"/api/jobs/status?jobId={PROBE}",
}


def ask(stores: Mapping[int, Store], rounds: int) -> None:
    """Time a pass and each request on every database in turns, then print the query plans."""
    times: dict[str, dict[int, list[float]]] = {name: {} for name in ("pass", *REQUESTS)}
    clients = {size: _client(store) for size, store in stores.items()}
    for number in range(rounds + 1):
        for size, store in stores.items():
            taken = {"pass": one_pass(store)} | {
                name: timed_ms(partial(_get, clients[size], path))
                for name, path in REQUESTS.items()
            }
            for name, milliseconds in taken.items():
                # The first round only warms up plans and caches.
                if number:
                    times[name].setdefault(size, []).append(milliseconds)
    print(f"ms, median of {rounds}; a pass is over {QUEUED} queued jobs and {WORKERS} workers\n")
    titles = ["ended jobs stored", *(f"{size:,}" for size in stores), "p99 of the last"]
    rows = []
    for name, of in times.items():
        last = list(of.values())[-1]
        rows.append([name, *(median(taken) for taken in of.values()), quantile(last, 0.99)])
    print_table(titles, rows)
    size, store = list(stores.items())[-1]
    print(f"\nhow it is found, at {size:,}: index, documents and keys looked at, returned")
    rows = [[name, *_plan(store, clients[size], path)] for name, path in REQUESTS.items()]
    print_table(["", "plan", "documents", "keys", "returned"], rows)


def _client(store: Store) -> FlaskClient:
    """Return a client of the API on a database; stores the job whose status is asked for."""
    now = store.clock.now()
    probe = Job(job_id=PROBE, command="true", created_at=now, queued_at=now, completed_at=now)
    store.jobs.submit([replace(probe, status=JobStatus.COMPLETED)])
    here = Platform(settings=Settings(auth=False), store=store, announce=lambda _: None)
    return create_app(here).test_client()


def _get(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    if answer.status_code != 200:
        raise SystemExit(f"{path}: {answer.status_code} {answer.text}")


def _plan(store: Store, client: FlaskClient, path: str) -> list[Any]:
    """Return how MongoDB's profiler says that it answered the request's query of jobs: its plan,
    what it looked at, and what it returned.
    """
    database = store.database
    database["system.profile"].drop()
    database.command("profile", 2)
    try:
        _get(client, path)
    finally:
        database.command("profile", 0)
    asked = list(database["system.profile"].find({"ns": f"{database.name}.jobs"}))
    # The first that reads jobs. A search may look before it, in the index alone, how far back to
    # look; a listing asks after it why its queued jobs wait.
    number = next(number for number, query in enumerate(asked) if query["docsExamined"])
    found, keys = asked[number], sum(query["keysExamined"] for query in asked[: number + 1])
    return [found["planSummary"], found["docsExamined"], keys, found["nreturned"]]
