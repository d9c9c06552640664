"""Clients that disconnect from a direct execution that prints nothing, on a real gunicorn."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import httpx2

from tests.helpers import eventually
from tests.system.conftest import Web


def test_leaving_a_silent_direct_execution_cancels_it(start_web: Callable[..., Web]) -> None:
    web = start_web(TASKYARD_AUTH="off")
    client = http.client.HTTPConnection(urlsplit(web.url).netloc, timeout=20)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    client.request("POST", "/api/execute", urlencode({"commands": "sleep 60"}), form)
    answer = client.getresponse()
    job_id = answer.headers["X-Job-Id"]
    assert status(web, job_id) == "QUEUED"
    answer.close()
    client.close()
    eventually(lambda: status(web, job_id) == "CANCELLED")


def status(web: Web, job_id: str) -> str:
    """Return the job's status in the API."""
    answer = httpx2.get(f"{web.url}/api/jobs/status", params={"jobId": job_id})
    return str(answer.json()["status"])
