"""``taskyard.Client``: submit jobs, follow them, fetch what they left."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import httpx2

from taskyard.client import config, sources
from taskyard.client.config import Connection
from taskyard.client.transport import AWAY, Transport
from taskyard.errors import InvalidRequest, RequestFailed, ServerUnreachable

T = TypeVar("T")

#: How long a client that follows or waits tries to reach the API again, each time it is lost.
RECONNECT_SECONDS = 60.0

_LONG_POLL_SECONDS = 60

#: How many results the API answers at once.
RESULTS_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event of a job: ``stdout``, ``stderr``, ``state``, ``reset`` or ``end``."""

    name: str
    data: Mapping[str, Any]


class Client:
    """A client of the API. Jobs and workers are plain dicts with the API's field names.

    Without arguments it uses the API that the command line uses: TASKYARD_URL and TASKYARD_TOKEN,
    else what ``taskyard up`` has left in the user's configuration folder.
    Every method raises RequestFailed and ServerUnreachable.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        if url is None or token is None:
            known = config.load()
            # A saved token is sent only to the address with which it was saved.
            if token is None:
                token = known.token if url is None or url.rstrip("/") == known.url else ""
            url = known.url if url is None else url
        self.url = url.rstrip("/")
        self._api = Transport(Connection(url=self.url, token=token), transport)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def submit(
        self, command: str, *, file: Path | str | None = None, key: str = "", **wanted: Any
    ) -> str:
        """Submit a job; returns its id. ``file`` is a ZIP to run it on.

        ``wanted`` has the API's names: ``requiredCpu``, ``timeoutMs``, ``labels`` and so on. The
        same call with the same ``key`` returns the same job again.
        """
        if file is not None:
            wanted |= {"fileId": self.upload(file)["fileId"]}
        answer = self._make("create", {"command": command, **wanted}, key)
        return str(answer["jobId"])

    def submit_all(self, jobs: Sequence[Mapping[str, Any]]) -> list[str]:
        """Submit up to 1,000 jobs in one request; returns their ids in order."""
        return list(self._make("create", [dict(job) for job in jobs])["jobIds"])

    def status(self, job_id: str, *, wait_seconds: int = 0) -> dict[str, Any]:
        """Return the job in full, once it has ended or after ``wait_seconds`` (60 at most)."""
        query = {"jobId": job_id, "wait": wait_seconds}
        return dict(self._api.ask("GET", "/api/jobs/status", again=True, params=query))

    def wait(self, job_id: str) -> dict[str, Any]:
        """Wait until the job has ended, and return it."""
        return self._until(lambda job: job["completedAt"] is not None, self.status, job_id)

    def results(self, job_ids: Sequence[str], *, wait_seconds: int = 0) -> dict[str, Any]:
        """Return how up to 1,000 jobs ended, in this order: ``{jobs, ended}``, once all have ended
        or after ``wait_seconds`` (60 at most). More than 2 KB of output is left to ``output``.
        """
        body = {"jobIds": list(job_ids), "wait": wait_seconds}
        return dict(self._api.ask("POST", "/api/jobs/results", again=True, json=body))

    def wait_for_all(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        """Wait until all these jobs have ended, and return their results in this order."""
        starts = range(0, len(job_ids), RESULTS_AT_ONCE)
        return [
            job
            for start in starts
            for job in self._wait_for(job_ids[start : start + RESULTS_AT_ONCE])
        ]

    def list_jobs(self, **filters: Any) -> dict[str, Any]:
        """Return a page of jobs, newest first: ``{jobs, count, next}``. Filters have API names."""
        query = {name: value for name, value in filters.items() if value not in (None, ())}
        return dict(self._api.ask("GET", "/api/jobs/list", again=True, params=query))

    def cancel(self, job_id: str, *, reason: str | None = None) -> dict[str, Any]:
        """Cancel a job, or have its agent stop it."""
        body = {"jobId": job_id, "reason": reason}
        return dict(self._api.ask("POST", "/api/jobs/cancel", again=True, json=body))

    def retry(self, job_id: str) -> str:
        """Submit an ended job anew; returns the new job's id."""
        return str(self._make("retry", {"jobId": job_id})["jobId"])

    def act_on_all(self, action: str, **task: Any) -> dict[str, Any]:
        """``cancel`` or ``retry`` one batch of the jobs that match; with ``dryRun`` count them.

        ``task`` has the API's names: ``q`` or ``jobIds``, ``asOf``, ``after``, ``reason``.
        """
        body = {"action": action, **task}
        # Without ``asOf`` the same request may match other jobs when it is sent again.
        safe = "asOf" in task or bool(task.get("dryRun"))
        return dict(self._api.ask("POST", "/api/jobs/bulk", again=safe, json=body))

    def output(self, job_id: str, *, stream: str | None = None) -> Iterator[str]:
        """Yield what the job printed, piece by piece: both streams as interleaved, or one."""
        query = {"jobId": job_id} | ({"stream": stream} if stream else {})
        with self._api.stream("/api/jobs/output", "text/plain", params=query) as answer:
            yield from answer.iter_text()

    def follow(self, job_id: str) -> Iterator[Event]:
        """Yield a job's events until its end; after a lost connection, from where it was lost."""
        last, patience = "", _Patience()
        while True:
            try:
                with self._events(job_id, last) as events:
                    patience = _Patience()
                    for event in events:
                        last = event.id
                        yield Event(name=event.event, data=json.loads(event.data))
                        if event.event == "end":
                            return
            except (ServerUnreachable, RequestFailed) as error:
                if not last or not patience.bears(error):
                    raise
            time.sleep(1)

    def workers(self) -> dict[str, Any]:
        """Return all workers, with their counts by status."""
        return dict(self._api.ask("GET", "/api/workers/list", again=True))

    def act_on_worker(self, worker_id: str, action: str) -> dict[str, Any]:
        """``drain``, ``resume`` or ``delete`` a worker."""
        path = f"/api/workers/{quote(worker_id, safe='')}"
        if action == "delete":
            return dict(self._api.ask("DELETE", path))
        return dict(self._api.ask("POST", f"{path}/{action}", again=True))

    def upload(self, file: Path | str) -> dict[str, Any]:
        """Store a file; returns ``{fileId, filename, size, sha256, url}``."""
        with sources.opened(Path(file)) as source:
            files = {"file": (Path(file).name, source, "application/octet-stream")}
            # Storing it twice does no harm: a file that no job names is deleted in time.
            return dict(self._api.ask("POST", "/api/files/upload", again=True, files=files))

    def download(self, url: str, target: BinaryIO) -> None:
        """Write a file of the API, such as a job's ``resultFileUrl``, to ``target``.

        An address elsewhere, as a job's ``fileUrl`` may be, would get our token. Raises
        InvalidRequest for one.
        """
        if not url.removeprefix(self.url).startswith("/"):
            raise InvalidRequest(f"{url} is not a file of {self.url}.")
        with self._api.stream(url) as answer:
            for piece in answer.iter_bytes():
                target.write(piece)

    def ready(self) -> dict[str, Any]:
        """Return what ``/readyz`` says, whether the platform is ready or not."""
        return self._api.probe("/readyz", "version", "checks")

    def _wait_for(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        answer = self._until(lambda found: found["ended"] == len(job_ids), self.results, job_ids)
        return list(answer["jobs"])

    def _until(
        self, is_over: Callable[[dict[str, Any]], bool], ask: Callable[..., dict[str, Any]], of: Any
    ) -> dict[str, Any]:
        """Ask in long polls until what is asked for is over; return the last answer."""
        if not self._api.has_answered:
            # Neither long nor insisted on: an API that is not there is reported soon.
            answer = ask(of)
            if is_over(answer):
                return answer
        while not is_over(answer := _insist(partial(ask, of, wait_seconds=_LONG_POLL_SECONDS))):
            pass
        return answer

    def _make(self, verb: str, body: Any, key: str = "") -> Any:
        """Send a request that makes jobs, with a key: it may be sent again if its answer was lost.
        Raises InvalidRequest for a key that no header can carry.
        """
        if not (key.isascii() and key.isprintable()) or key != key.strip():
            raise InvalidRequest(
                f"The key {key!a} cannot be sent: it goes in a header, so it is of ASCII's "
                "printable characters and neither begins nor ends with a space."
            )
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        return self._api.ask("POST", f"/api/jobs/{verb}", again=True, json=body, headers=headers)

    @contextmanager
    def _events(self, job_id: str, last: str) -> Iterator[Iterator[httpx2.ServerSentEvent]]:
        """Yield the events after ``last``, once the API has begun to send them."""
        headers = {"Last-Event-ID": last} if last else {}
        path, kind = "/api/jobs/events", "text/event-stream"
        with self._api.stream(path, kind, params={"jobId": job_id}, headers=headers) as answer:
            # An event without data only sets the pause before a reconnect.
            yield (event for event in httpx2.EventSource(answer) if event.data)


class _Patience:
    """How long a client that waits for a job tries again, counted from its first failure."""

    def __init__(self) -> None:
        self._ends_at = math.inf

    def bears(self, error: ServerUnreachable | RequestFailed) -> bool:
        """Return whether to try again: the API or its database is away, but not for too long."""
        self._ends_at = min(self._ends_at, time.monotonic() + RECONNECT_SECONDS)
        away = isinstance(error, ServerUnreachable) or error.status in AWAY
        return away and time.monotonic() <= self._ends_at


def _insist(ask: Callable[[], T]) -> T:
    """Return the answer, and wait for the API if it is away meanwhile."""
    patience = _Patience()
    while True:
        try:
            return ask()
        except (ServerUnreachable, RequestFailed) as error:
            if not patience.bears(error):
                raise
        time.sleep(1)
