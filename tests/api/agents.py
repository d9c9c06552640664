"""An HTTP agent in a few lines, for tests of the worker half."""

from __future__ import annotations

from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from taskyard.api.app import create_app
from taskyard.context import Platform

FACTS = {
    "hostname": "host",
    "os": "linux",
    "cpuCount": 4,
    "cpuUsage": 12.5,
    "ramTotalMb": 8000,
    "ramFreeMb": 4000,
    "version": "1.0",
    "status": "IDLE",
}


class HttpAgent:
    """An agent that sends what agents of the earlier system sent, and its lease if ``fenced``."""

    def __init__(self, client: FlaskClient, worker_id: str = "w1", *, fenced: bool = False) -> None:
        self.client, self.worker_id, self.fenced = client, worker_id, fenced
        self.job: dict[str, Any] = {}

    def register(self, **facts: Any) -> TestResponse:
        body = {"workerId": self.worker_id, **FACTS, **facts}
        return self.client.post("/api/workers/register", json=body)

    def heartbeat(self, **facts: Any) -> TestResponse:
        body = {"workerId": self.worker_id, "cpuUsage": 1, "ramFreeMb": 10, "ramTotalMb": 8000}
        return self.client.post("/api/workers/heartbeat", json={**body, **facts})

    def poll(self) -> TestResponse:
        answer = self.client.post("/api/jobs/get-job", json={"workerId": self.worker_id})
        self.job = (answer.get_json() or {}).get("job") or self.job
        return answer

    def stream(self, data: str, type: str = "stdout", **fields: Any) -> TestResponse:
        body = {**self._lease(), "data": data, "type": type, **fields}
        return self.client.post("/api/jobs/stream-output", json=body)

    def submit(self, exit_code: Any = 0, **fields: Any) -> TestResponse:
        body = {**self._lease(), "stdout": "", "stderr": "", "exitCode": exit_code, **fields}
        return self.client.post("/api/jobs/submit-result", json=body)

    def fail(self, message: str = "no disk") -> TestResponse:
        body = {**self._lease(), "errorMessage": message}
        return self.client.put("/api/jobs/submit-result", json=body)

    def cancelled(self) -> bool:
        query = {name: value for name, value in self._lease().items() if value is not None}
        answer = self.client.get("/api/jobs/check-cancel", query_string=query)
        return bool(answer.get_json()["cancelRequested"])

    def _lease(self) -> dict[str, Any]:
        lease = {"jobId": self.job.get("jobId"), "workerId": self.worker_id}
        if self.fenced:
            lease |= {"attempt": self.job["attempt"], "leaseId": self.job["leaseId"]}
        return lease


def client_with_token(platform: Platform, role: str = "operator") -> FlaskClient:
    """Return a client of the application, with a token of the role in every request."""
    token = platform.store.tokens.create(role=role, name=f"a {role}")
    client = create_app(platform).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {token}"
    return client


def registered(client: FlaskClient) -> HttpAgent:
    """Return a registered agent that sends no leases."""
    agent = HttpAgent(client)
    assert agent.register().status_code == 200
    return agent


def submit_job(client: FlaskClient, **body: Any) -> str:
    """Create a job and return its id."""
    answer = client.post("/api/jobs/create", json={"command": "true", **body})
    assert answer.status_code == 201, answer.text
    return str(answer.get_json()["jobId"])


def status_of(client: FlaskClient, job_id: str) -> dict[str, Any]:
    """Return the job in full."""
    status: dict[str, Any] = client.get(f"/api/jobs/status?jobId={job_id}").get_json()
    return status
