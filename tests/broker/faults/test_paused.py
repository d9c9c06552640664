"""A worker with all its processes stopped until its leases are over, and then continued."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskyard.embedded import EmbeddedServer
from tests.broker.faults.bench import Bench, Worker

LEASE_SECONDS = 3


@pytest.fixture
def bench(mongod: EmbeddedServer, tmp_path: Path) -> Iterator[Bench]:
    with Bench(tmp_path, mongod.uri, lease_seconds=LEASE_SECONDS) as bench:
        yield bench


def test_a_worker_that_slept_cannot_acknowledge_what_another_runs(
    bench: Bench, mongod: EmbeddedServer
) -> None:
    """It logs that, the other worker keeps its lease, and both go on."""
    slept, other = asleep(bench, mongod), bench.start(mongod.uri, concurrency=1)
    bench.wait(lambda: bench.runs() == {"task": 2})
    (held,) = bench.messages()
    slept.signal_all(signal.SIGCONT)
    bench.open("task.w0")
    slept.await_log("came after its lease")
    (still,) = bench.messages()
    assert still["lease"] == held["lease"]
    bench.open("task")
    bench.await_empty()
    assert bench.runs() == bench.runs("end") == {"task": 2}
    assert "came after its lease" not in other.log
    assert other.never_restarted()
    other.kill()
    bench.send("next")
    bench.await_runs({"next"})
    assert slept.never_restarted()


def test_a_worker_that_slept_says_that_another_was_done_before_it(
    bench: Bench, mongod: EmbeddedServer
) -> None:
    slept, other = asleep(bench, mongod), bench.start(mongod.uri, concurrency=1)
    bench.open("task")
    bench.await_empty()
    slept.signal_all(signal.SIGCONT)
    slept.await_log("came after its lease")
    assert bench.runs("end") == {"task": 2}
    assert "came after its lease" not in other.log


def asleep(bench: Bench, mongod: EmbeddedServer) -> Worker:
    """Return a worker that was stopped while it runs a task."""
    worker = bench.start(mongod.uri, concurrency=1)
    bench.send("task", task="hold")
    bench.wait(lambda: bench.runs() == {"task": 1})
    worker.signal_all(signal.SIGSTOP)
    return worker
