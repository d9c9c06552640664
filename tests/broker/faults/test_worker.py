"""A real worker while its commands fail and its connections are cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker.faults.bench import Bench, Worker
from tests.broker.faults.conftest import Document, Fail
from tests.replica_set import ReplicaSet

APP = "worker-under-test"

COMMANDS = ["findAndModify", "find", "update", "delete"]

FAULTS: dict[str, tuple[list[str], Document]] = {
    "cut": ([*COMMANDS, "aggregate", "getMore", "ping"], {"closeConnection": True}),
    "not primary": (COMMANDS, {"errorCode": 10107}),
    "stepped down": (COMMANDS, {"errorCode": 189}),
    "interrupted": (COMMANDS, {"errorCode": 11600}),
    "time limit": (COMMANDS, {"errorCode": 50}),
    "exceeded": (COMMANDS, {"errorCode": 262}),
    "no majority": (
        ["findAndModify", "update", "delete"],
        {"writeConcernError": {"code": 64, "errmsg": "", "errInfo": {"wtimeout": True}}},
    ),
    "shutting down": (
        ["findAndModify", "update", "delete"],
        {"writeConcernError": {"code": 91, "errmsg": "shutting down"}},
    ),
}

SLOW = ("interrupted", "shutting down", "no majority")


@pytest.fixture(scope="module")
def bench(replica_set: ReplicaSet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # So long that no message here comes back because its lease has ended.
    with Bench(tmp_path_factory.mktemp("bench"), replica_set.uri, lease_seconds=600) as bench:
        yield bench


@pytest.fixture(scope="module")
def worker(bench: Bench, replica_set: ReplicaSet) -> Worker:
    return bench.start(replica_set.uri, client_options={"appname": APP})


@pytest.mark.parametrize("fault", FAULTS)
def test_commands_that_fail_cost_a_worker_nothing(
    bench: Bench, worker: Worker, fail: Fail, fault: str
) -> None:
    """While it claims, runs, renews and acknowledges."""
    keys = {f"{fault}-{number}".replace(" ", "-") for number in range(12)}
    commands, data = FAULTS[fault]
    # After each of the slow faults it takes a second or so until the next try.
    fail(commands, times=3 if fault in SLOW else 20, app=APP, **data)
    for key in keys:
        bench.send(key, 0.05)
    bench.await_runs(keys)
    bench.await_empty()
    assert {bench.runs()[key] for key in keys} == {1}
    assert worker.never_restarted()
    assert bench.dead_letters() == []


STARTS: dict[str, tuple[str, Document]] = {
    "exceeded": ("ping", {"errorCode": 262}),
    "conflict": ("createIndexes", {"errorCode": 112}),
}


@pytest.mark.parametrize("fault", STARTS)
def test_a_worker_starts_although_a_command_fails(
    bench: Bench, replica_set: ReplicaSet, fail: Fail, fault: str
) -> None:
    command, data = STARTS[fault]
    app = f"starting {fault}"
    fail([command], app=app, **data)
    worker = bench.start(replica_set.uri, client_options={"appname": app}, concurrency=1)
    assert "Trying again" in worker.log
    worker.kill()
