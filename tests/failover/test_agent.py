"""An agent's runner while the replica set loses its primary: jobs run on and deliver results."""

from __future__ import annotations

import io
import signal
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskyard.context import Platform
from taskyard.jobs.model import Job, Lease
from taskyard.jobs.states import JobStatus
from taskyard.store.client import Store
from taskyard.store.failures import is_unavailable
from tests.agent.conftest import Bench
from tests.failover.conftest import Fail
from tests.failover.test_verbs import FAULTS
from tests.helpers import eventually
from tests.replica_set import ReplicaSet


@pytest.fixture
def bench(platform: Platform, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(platform, tmp_path / "workspaces")
    yield made
    made.runner.drain(0)


def ended(bench: Bench, lease: Lease) -> Job:
    """Return the job once it has ended; the test's own reads may fail in the outage too."""

    def over() -> Job | None:
        try:
            job = bench.store.jobs.get(lease.job_id)
        except Exception as error:
            if not is_unavailable(error):
                raise
            return None
        return job if job.is_terminal else None

    return eventually(over, 60)


def archive(**files: str) -> io.BytesIO:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as target:
        for name, text in files.items():
            target.writestr(name, text)
    packed.seek(0)
    return packed


@pytest.mark.parametrize("fault", ["conflict", "no majority"])
@pytest.mark.parametrize(
    ("command", "collection"), [("insert", "files.chunks"), ("insert", "files.files")]
)
def test_a_result_archive_is_sent_until_it_is_there(
    bench: Bench, fail: Fail, fault: str, command: str, collection: str
) -> None:
    fail([command], collection=collection, **FAULTS[fault])
    job = bench.run("echo kept > left")
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)
    assert bench.left(job).read("left") == b"kept\n"


@pytest.mark.parametrize("collection", ["jobs", "files.chunks", "files.files"])
def test_an_input_that_cannot_be_read_now_is_no_failure_of_the_agent(
    bench: Bench, fail: Fail, store: Store, collection: str
) -> None:
    saved = store.files.save(
        archive(a="in"), filename="a.zip", cap_bytes=10**6, keep=timedelta(days=1)
    )
    lease = bench.assign("cat a", file_id=saved.file_id)
    fail(["find"], collection=collection, **FAULTS["conflict"])
    bench.runner.run_assigned(lease)
    job = ended(bench, lease)
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1)
    assert bench.printed(job) == "in"
    assert store.workers.get("w1").trouble(store.clock.now()) is None
    eventually(lambda: not list(bench.folder.rglob("a")))
    assert len(list(bench.folder.iterdir())) <= 1, "one workspace, emptied for the next job"


@pytest.mark.parametrize("how", ["step down", "kill", "stop"])
def test_a_job_that_runs_through_an_election_is_delivered_once_and_whole(
    bench: Bench, replica_set: ReplicaSet, how: str
) -> None:
    lines = "for i in $(seq 60); do echo $i; sleep .1; done; echo kept > left"
    lease = bench.give(lines)
    bench.await_status(lease, "RUNNING")
    began = time.monotonic()
    _disturb(replica_set, how)
    job = ended(bench, lease)
    assert (job.status, job.attempts) == (JobStatus.COMPLETED, 1), time.monotonic() - began
    assert bench.printed(job).split() == [str(n) for n in range(1, 61)]
    assert job.output_bytes == len(bench.printed(job))
    assert job.result_file_id
    assert [entry["verb"] for entry in job.history] == ["assign", "start", "complete"]


def _disturb(replica_set: ReplicaSet, how: str) -> None:
    if how == "step down":
        replica_set.step_down()
        return
    primary: Any = replica_set.await_primary()
    primary.signal(signal.SIGKILL if how == "kill" else signal.SIGSTOP)
    try:
        replica_set.await_primary()
    finally:
        if how == "kill":
            primary.start()
        else:
            primary.signal(signal.SIGCONT)
