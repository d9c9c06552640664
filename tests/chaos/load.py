"""The load: clients that submit and cancel jobs over HTTP, and a record of their answers."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.chaos.plan import JobPlan, Submission

#: How long a client retries; a request that has not succeeded by then is a violation.
PATIENCE_SECONDS = 120.0

#: A request without an answer within this time counts as a broken connection.
ANSWER_SECONDS = 30.0

_CLIENTS = 24
_PAUSE_SECONDS = 0.3


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A job that the API has accepted."""

    job_id: str
    name: str
    plan: JobPlan


@dataclass(kw_only=True)
class Answers:
    """The answers that clients got, as evidence."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    #: Idempotency-Key -> the job ids in each 2xx answer.
    keys: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    #: HTTP status -> count; 0 is a connection that broke or timed out.
    statuses: Counter[int] = field(default_factory=Counter)
    #: Descriptions of answers that no client should ever get.
    wrong: list[str] = field(default_factory=list)
    #: Seconds from the first try of each submit to its 2xx.
    seconds: list[float] = field(default_factory=list)


class Load:
    """A pool of clients that work in the background."""

    def __init__(self, urls: Sequence[str], job_log: Path) -> None:
        self.answers = Answers()
        self._job_log = job_log
        self._urls = itertools.cycle(urls)
        self._lock = threading.Lock()
        self._http = httpx2.Client(
            timeout=httpx2.Timeout(ANSWER_SECONDS, connect=5),
            limits=httpx2.Limits(max_connections=_CLIENTS),
        )
        self._pool = ThreadPoolExecutor(_CLIENTS, thread_name_prefix="client")
        self._pending: list[Future[Any]] = []

    def begin(self, submissions: Iterable[Submission]) -> None:
        """Make these submissions at their times, counted from now."""
        began = time.monotonic()
        for submission in submissions:
            self._pending.append(self._pool.submit(self._make, submission, began))

    def submit(self, submission: Submission) -> list[str]:
        """Submit until accepted; returns the job ids, or none if PATIENCE_SECONDS ran out."""
        names = [f"{submission.key}.{number}" for number in range(len(submission.jobs))]
        bodies = [
            plan.request(name, self._job_log)
            for name, plan in zip(names, submission.jobs, strict=True)
        ]
        headers = {"Idempotency-Key": submission.key}
        body = bodies if submission.as_list else bodies[0]
        began = time.monotonic()
        answer = self._send("/api/jobs/create", body, headers)
        if answer is None:
            return []
        told = answer.json()
        ids = list(told["jobIds"] if submission.as_list else [told["jobId"]])
        with self._lock:
            self.answers.seconds.append(time.monotonic() - began)
            self.answers.keys.setdefault(submission.key, []).append(tuple(ids))
            for job_id, name, plan in zip(ids, names, submission.jobs, strict=False):
                self.answers.accepted[job_id] = Accepted(job_id=job_id, name=name, plan=plan)
        return ids

    def cancel(self, job_id: str) -> None:
        """Request the cancel until it succeeds, or the job has ended (409)."""
        self._send("/api/jobs/cancel", {"jobId": job_id}, {}, also=409)

    def finish(self) -> None:
        """Wait until all submissions and their cancels are done."""
        for pending in self._pending:
            pending.result()
        self._pending.clear()

    def close(self) -> None:
        """Stop the clients and close their connections."""
        self._pool.shutdown(cancel_futures=True)
        self._http.close()

    def _make(self, submission: Submission, began: float) -> None:
        _wait_until(began + submission.at)
        ids = self.submit(submission)
        if submission.twice:
            self.submit(submission)
        if submission.cancel_after is not None:
            _wait_until(time.monotonic() + submission.cancel_after)
            for job_id in ids:
                self.cancel(job_id)

    def _send(
        self, path: str, body: Any, headers: dict[str, str], also: int = 0
    ) -> httpx2.Response | None:
        """Retry until the answer is 2xx or ``also``; None, and a record, if it failed for good."""
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            try:
                answer = self._http.post(f"{next(self._urls)}{path}", json=body, headers=headers)
            except httpx2.TransportError:
                self._count(0)
                _wait_until(time.monotonic() + _PAUSE_SECONDS)
                continue
            self._count(answer.status_code)
            if answer.is_success or answer.status_code == also:
                return answer
            if answer.status_code != 503:
                self._complain(f"POST {path}: {answer.status_code} {answer.text[:200]}")
            elif not answer.headers.get("Retry-After", "").isdecimal():
                self._complain(f"POST {path}: 503 without Retry-After")
            _wait_until(time.monotonic() + _PAUSE_SECONDS)
        self._complain(f"POST {path}: not accepted within {PATIENCE_SECONDS:g} s")
        return None

    def _count(self, status: int) -> None:
        with self._lock:
            self.answers.statuses[status] += 1

    def _complain(self, words: str) -> None:
        with self._lock:
            self.answers.wrong.append(words)


def _wait_until(then: float) -> None:
    """Sleep until the given time: this paces clients and waits for no condition."""
    threading.Event().wait(max(0.0, then - time.monotonic()))
