"""Taskyard's own side: ``taskyard up`` as a user starts it, and a client of its API."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from bench.common import Caller, family, started, wait_until
from bench.side import COMMAND, Side
from pymongo import MongoClient

from taskyard.client import config


class TaskyardClient:
    """A client of the API over HTTP; one request waits for the output."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self._caller = Caller(url, token)

    def submit(self, command: str = COMMAND) -> Any:
        """Submit one job with one request."""
        return self._caller.call("POST", "/api/jobs/create", {"command": command})["jobId"]

    def submit_list(self, count: int, command: str = COMMAND, **needs: float) -> list[Any]:
        """Submit many equal jobs with one request."""
        jobs = [{"command": command, **needs}] * count
        return list(self._caller.call("POST", "/api/jobs/create", jobs)["jobIds"])

    def output(self, job: Any) -> str:
        """Ask for the output; ask again if the server's wait ran out."""
        return str(self._ended(job)["stdout"])

    def outputs(self, jobs: list[Any]) -> list[str]:
        """Ask for up to 1,000 outputs at once; ask again if the server's wait ran out."""
        while True:
            body = {"jobIds": jobs, "wait": 60}
            answer = self._caller.call("POST", "/api/jobs/results", body)
            if answer["ended"] == len(jobs):
                return [str(job["stdout"]) for job in answer["jobs"]]

    def await_end(self, job: Any) -> float:
        """Wait until the job has ended and return how many seconds it ran."""
        ended = self._ended(job)
        return float(ended["completedAt"] - ended["startedAt"]) / 1000

    def read_status(self, job: Any) -> Any:
        """Return the job's current status."""
        return self._caller.call("GET", f"/api/jobs/status?jobId={job}")

    def read_all(self, job: Any) -> bytes:
        """Return everything that the job printed."""
        return self._caller.read("GET", f"/api/jobs/output?jobId={job}")

    def _ended(self, job: Any) -> Any:
        while True:
            answer = self._caller.call("GET", f"/api/jobs/status?jobId={job}&wait=60")
            if answer["completedAt"]:
                return answer


@contextlib.contextmanager
def taskyard(folder: Path, **env: str) -> Iterator[Side]:
    """Run ``taskyard up`` as a user starts it, on its embedded MongoDB server."""
    env = {**environment(folder), **env}
    data, log = folder / "data", folder / "up.log"
    program = Path(sys.executable).with_name("taskyard")
    command = [str(program), "up", "--port", "0", "--data-dir", str(data)]
    with started(command, env, log) as up:

        def ready() -> bool:
            if up.poll() is not None:
                raise SystemExit(f"taskyard up ended:\n{log.read_text()[-2000:]}")
            return "Ctrl-C" in log.read_text()

        wait_until(ready, "taskyard up is ready")
        found = re.search(r"Taskyard is up +(http\S+)", log.read_text())
        assert found is not None
        token = config.load({"TASKYARD_CONFIG_DIR": str(folder)}).token
        uri = (data / "uri").read_text().split()[1]
        with MongoClient[dict[str, Any]](uri) as client:
            jobs = client["taskyard"]["jobs"]
            live = {"status": {"$in": ["QUEUED", "ASSIGNED", "RUNNING"]}}
            yield Side(
                connect=lambda: TaskyardClient(found[1], token),
                is_drained=lambda: jobs.find_one(live, {"_id": 1}) is None,
                processes=_parts_of(up.pid),
                workers=("agent", "keeper"),
            )


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of ``taskyard up`` and of the CLI commands that use it."""
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("TASKYARD_", "MONGODB_"))},
        "TASKYARD_CONFIG_DIR": str(folder),
        # Apart from the default folder, which other agents of this host and user share.
        "TASKYARD_WORKSPACE_DIR": str(folder / "work"),
        "PYTHONUNBUFFERED": "1",
    }


def _parts_of(pid: int) -> dict[str, list[psutil.Process]]:
    """Return the processes of ``taskyard up`` by kind."""
    parts: dict[str, list[psutil.Process]] = {}
    marks = {
        "mongod": "mongod --dbpath",
        "keeper": "taskyard.agent.keeper",
        "web": "gunicorn",
        "beat": " beat ",
        "scheduler": " scheduler@",
        "agent": " agent@",
    }
    for process in family(pid):
        line = " ".join(process.cmdline())
        kind = next((kind for kind, mark in marks.items() if mark in line), "up")
        parts.setdefault(kind, []).append(process)
    return parts
