"""An agent's runner with the real store and real processes, but without Celery."""

from __future__ import annotations

import dataclasses
import io
import threading
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskyard import ids
from taskyard.agent.admission import Admission, Capacity
from taskyard.agent.reporting import Reporter
from taskyard.agent.runner import Runner
from taskyard.agent.stages import Stages
from taskyard.agent.turns import Turns
from taskyard.agent.workspace import WorkspaceRoot
from taskyard.context import Platform
from taskyard.jobs import lifecycle
from taskyard.jobs.model import Job, Lease, lease_of
from taskyard.jobs.transition import Moment
from tests import factories
from tests.helpers import eventually


class Bench:
    """The runner of one agent, and functions that give it jobs as the scheduler would."""

    def __init__(
        self, platform: Platform, folder: Path, *, cpu_count: float = 8, **settings: Any
    ) -> None:
        chosen: dict[str, Any] = {"kill_grace_seconds": 0.3, "workspace_dir": folder, **settings}
        self.platform = dataclasses.replace(
            platform, settings=dataclasses.replace(platform.settings, **chosen)
        )
        self.store = platform.store
        self.folder = folder
        capacity = Capacity(cpu_count=cpu_count, ram_total_mb=8192, max_jobs=0)
        self.reporter = Reporter(self.platform)
        stages = Stages(self.platform, self.reporter, WorkspaceRoot(folder))
        self.runner = Runner(stages, Admission(capacity), Turns(), self.platform.settings)
        self.runner.start()
        self.store.workers.register(
            "w1", {"kind": "celery", "bootId": "b1", "hostname": "h"}, now=self.store.clock.now()
        )

    def assign(self, command: str, **fields: Any) -> Lease:
        """Submit a job and assign it to this agent; return its lease."""
        now = self.store.clock.now()
        job = factories.queued_job(command=command, now=now, **fields)
        self.store.jobs.submit([job])
        assigned = self.store.jobs.apply(
            lifecycle.assign(
                job,
                worker_id="w1",
                lease_id=ids.lease(),
                at=Moment(now=now),
                start_by=now + timedelta(seconds=15),
            )
        )
        assert assigned is not None
        return lease_of(assigned)

    def give(self, command: str, **fields: Any) -> Lease:
        """Assign a job and give it to the runner; return its lease."""
        lease = self.assign(command, **fields)
        self.runner.run_assigned(lease)
        return lease

    def take(self, *commands: str, **fields: Any) -> list[Lease]:
        """Start jobs and give them all to the runner at once; return their leases."""
        started = [self.reporter.start(self.assign(command, **fields)) for command in commands]
        jobs = [job for job in started if job is not None]
        self.runner.take(jobs)
        return [lease_of(job) for job in jobs]

    def run(self, command: str, **fields: Any) -> Job:
        """Run a job to its end, and return it."""
        return self.ended(self.give(command, **fields))

    def ended(self, lease: Lease, timeout_seconds: float = 20) -> Job:
        def over() -> Job | None:
            job = self.store.jobs.get(lease.job_id)
            return job if job.is_terminal else None

        return eventually(over, timeout_seconds)

    def await_status(self, lease: Lease, status: str) -> Job:
        def there() -> Job | None:
            job = self.store.jobs.get(lease.job_id)
            return job if job.status == status else None

        return eventually(there)

    def printed(self, job: Job | Lease, stream: str = "stdout") -> str:
        found = self.store.jobs.get(job.job_id)
        return "".join(c.data for c in self.store.output.read(found) if c.stream == stream)

    def left(self, job: Job) -> zipfile.ZipFile:
        """Return the archive of what the job left."""
        stored = self.store.files.get(job.result_file_id or "")
        content = b"".join(self.store.files.pieces(stored.file_id, 0, stored.size_bytes))
        return zipfile.ZipFile(io.BytesIO(content))


def until(path: Path) -> str:
    """Return a command that waits until this file exists."""
    return f"until [ -e {path} ]; do sleep .02; done"


def keepers() -> list[psutil.Process]:
    """Return the keeper processes of this process's runners."""

    def is_keeper(process: psutil.Process) -> bool:
        try:
            return "taskyard.agent.keeper" in process.cmdline()
        except psutil.NoSuchProcess:
            # The process has ended: it was reaped meanwhile, or is a zombie.
            return False

    return [child for child in psutil.Process().children() if is_keeper(child)]


@pytest.fixture
def no_thread_left(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every start of a thread fail, as on a host where jobs have used up all threads."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


@pytest.fixture
def bench(platform: Platform, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(platform, tmp_path / "workspaces")
    yield made
    made.runner.drain(0)
