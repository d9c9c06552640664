"""A primary that steps down or is killed under load, and a single server that is down for long."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.broker.faults.bench import Bench
from tests.broker.faults.load import Account, Load
from tests.helpers import eventually
from tests.replica_set import ReplicaSet


def test_a_primary_that_goes_costs_nothing(replica_set: ReplicaSet, tmp_path: Path) -> None:
    """Each task runs once, no publisher sees an error, and nothing restarts the worker."""
    with Bench(tmp_path, replica_set.uri, lease_seconds=30) as bench:
        worker = bench.start(replica_set.uri)
        with Load(bench) as load:
            load.await_more()
            replica_set.step_down()
            load.await_more()
            killed = replica_set.await_primary()
            killed.signal(signal.SIGKILL)
            try:
                load.await_more()
            finally:
                killed.start()
            load.await_more()
        account = Account.of(load, bench)
        assert (account.refused, load.refused) == (0, {})
        assert (account.lost, account.twice, account.dead) == (0, 0, 0), account
        assert worker.never_restarted()


def test_a_server_that_is_away_for_longer_than_leases_last(tmp_path: Path) -> None:
    """The worker first renews and acknowledges what it holds, since that seems to be free."""
    with ReplicaSet(tmp_path / "single", size=1) as single:
        (member,) = single.members
        with Bench(tmp_path, single.uri, lease_seconds=6) as bench:
            worker = bench.start(single.uri)
            bench.send("ends", task="hold")
            bench.send("goes-on", task="hold")
            bench.wait(lambda: len(bench.runs()) == 2)
            leased_until = max(held["visibleAt"].timestamp() for held in bench.messages())
            member.signal(signal.SIGKILL)
            bench.open("ends")
            bench.await_runs({"ends"})
            # The times can be compared: the server runs on this host.
            eventually(lambda: time.time() > leased_until, 60)
            member.start()
            single.await_primary()
            bench.send("after1")
            bench.await_runs({"after1"})
            bench.send("after2")
            bench.await_runs({"after2"})
            bench.open("goes-on")
            bench.await_empty()
            assert bench.runs() == bench.runs("end") == dict.fromkeys(bench.runs(), 1)
            assert worker.never_restarted()
