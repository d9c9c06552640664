"""A worker whose network goes away while its tasks run: nothing is run twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.faults.bench import Bench
from tests.chaos.proxy import Mode, Proxy
from tests.replica_set import ReplicaSet


@pytest.fixture
def proxy(replica_set: ReplicaSet) -> Iterator[Proxy]:
    """The network between the worker and the primary."""
    with Proxy(replica_set.await_primary().port) as proxy:
        yield proxy


@pytest.mark.parametrize("mode", [Mode.REFUSE, Mode.DROP])
def test_what_runs_while_the_network_is_away_is_run_once_and_acknowledged(
    replica_set: ReplicaSet, proxy: Proxy, tmp_path: Path, mode: Mode
) -> None:
    with Bench(tmp_path, replica_set.uri, lease_seconds=60) as bench:
        worker = bench.start(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true")
        for key in ("cut1", "cut2"):
            bench.send(key, task="hold")
        bench.wait(lambda: set(bench.runs()) == {"cut1", "cut2"})
        proxy.set(mode)
        bench.send("after", 0)
        for key in ("cut1", "cut2"):
            bench.open(key)
        bench.await_runs({"cut1", "cut2"})
        worker.await_log("trying again")
        proxy.set(Mode.PASS)
        bench.await_runs({"after"})
        bench.await_empty()
        assert bench.runs() == {"cut1": 1, "cut2": 1, "after": 1}
        assert worker.never_restarted()


def test_a_task_outlives_the_consumer_that_received_it(
    replica_set: ReplicaSet, tmp_path: Path
) -> None:
    """Celery reconnects while the task runs: the acknowledgement needs no channel."""
    with Bench(tmp_path, replica_set.uri, lease_seconds=60) as bench:
        worker = bench.start(replica_set.uri)
        for key in ("held1", "held2"):
            bench.send(key, task="hold")
        bench.wait(lambda: set(bench.runs()) == {"held1", "held2"})
        bench.app.control.broadcast("lose_connection")
        worker.await_log("Connection to broker lost")
        bench.wait(lambda: worker.log.count(" ready.") + worker.log.count("Connected to") >= 3)
        for key in ("held1", "held2"):
            bench.open(key)
        bench.send("after", 0)
        bench.await_runs({"held1", "held2", "after"})
        bench.await_empty()
        assert bench.runs() == {"held1": 1, "held2": 1, "after": 1}
        assert worker.process.poll() is None
