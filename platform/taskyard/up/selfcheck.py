"""The end of start-up: wait until every part works, then run a job through the public API."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from taskyard.client import Client
from taskyard.errors import TaskyardError

COMMAND = 'echo "hello from $(uname -n)"'
PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.05
_BUSY_SECONDS = 5

#: What the first job asks for: so little, since hosts with less than one CPU run the platform too.
_LEAST_CPU = 0.01
_LEAST_RAM_MB = 1


class SelfCheckFailed(TaskyardError):
    """The platform was started and does not work."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the first job printed and how long it took from submit to end."""

    output: str
    milliseconds: float


class AgentBusy(TaskyardError):
    """Jobs of an earlier run fill the agent: it works, and has no place for one more."""


def await_parts(
    client: Client, check_alive: Callable[[], None], tell: Callable[[str], None]
) -> None:
    """Wait until the API, the ticks and an agent are there. Raises SelfCheckFailed."""
    began = time.monotonic()
    missing: set[str] = {"web"}
    told: set[str] = set()
    while missing and time.monotonic() < began + PATIENCE_SECONDS:
        check_alive()
        missing = _missing(client)
        for name in [n for n in ("web", "scheduler", "agent") if n not in missing | told]:
            told.add(name)
            tell(f"{name} is ready after {time.monotonic() - began:.1f} s")
        time.sleep(_LOOK_SECONDS)
    if missing:
        names = ", ".join(sorted(missing))
        raise SelfCheckFailed(f"{names} did not become ready in {PATIENCE_SECONDS:g} s.")


def run_first_job(client: Client) -> Checked:
    """Run a job through the API. Raises SelfCheckFailed, or AgentBusy if the agent has no place."""
    began = time.monotonic()
    job_id = client.submit(
        COMMAND, timeoutMs=30_000, priority=9, requiredCpu=_LEAST_CPU, requiredRamMb=_LEAST_RAM_MB
    )
    job = client.status(job_id, wait_seconds=_BUSY_SECONDS)
    if job["status"] == "QUEUED" and client.workers()["busyWorkers"]:
        client.cancel(job_id, reason="the agent is busy")
        raise AgentBusy("the agent is busy with jobs from before; yours wait their turn")
    job = client.status(job_id, wait_seconds=30)
    took = (time.monotonic() - began) * 1000
    if job["status"] != "COMPLETED":
        why = job["errorMessage"] or job["waitingReason"]
        raise SelfCheckFailed(f"The self-check job is {job['status']}: {why}")
    return Checked(output=job["stdout"].strip(), milliseconds=took)


def _missing(client: Client) -> set[str]:
    try:
        checks = client.ready()["checks"]
        online = client.workers()
    except (TaskyardError, KeyError, ValueError):
        return {"web", "scheduler", "agent"}
    missing = set()
    if not all(check["ok"] for check in checks.values()):
        missing.add("scheduler")
    if online["totalWorkers"] == online["offlineWorkers"]:
        missing.add("agent")
    return missing
