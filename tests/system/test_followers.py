"""Many clients follow one job at once, and the API still answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.helpers import eventually
from tests.system.conftest import Web

FOLLOWERS = 100


def test_a_hundred_follow_one_job_while_the_api_answers(start_web: Callable[..., Web]) -> None:
    web = start_web(TASKYARD_AUTH="off")
    job_id = httpx2.post(f"{web.url}/api/jobs/create", json={"command": "true"}).json()["jobId"]
    heard = threading.Semaphore(0)

    def follow(_: int) -> list[str]:
        path = f"{web.url}/api/jobs/events?jobId={job_id}"
        with httpx2.stream("GET", path, timeout=60) as answer:
            return list(_names(answer.iter_lines(), heard))

    with ThreadPoolExecutor(FOLLOWERS) as pool:
        followers = pool.map(follow, range(FOLLOWERS))
        assert all(heard.acquire(timeout=30) for _ in range(FOLLOWERS))
        status = httpx2.get(f"{web.url}/api/jobs/status?jobId={job_id}").json()
        assert status["status"] == "QUEUED"
        httpx2.post(f"{web.url}/api/jobs/cancel", json={"jobId": job_id}).raise_for_status()
        assert all(names[-1] == "end" for names in followers)
    assert web.worker().memory_info().rss < 150 * 2**20
    eventually(lambda: httpx2.get(f"{web.url}/healthz").status_code == 200)


def _names(lines: Iterable[str], heard: threading.Semaphore) -> Iterable[str]:
    """Yield the events' names; releases ``heard`` at the first event."""
    first = True
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            if first:
                heard.release()
            first = False
            yield value
