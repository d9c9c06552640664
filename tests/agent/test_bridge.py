"""What an agent does while it cannot renew its leases, by how much of the set it can reach."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator
from typing import Any, cast

import pytest

from taskyard.agent import bridge as bridge_module
from taskyard.agent.bridge import Bridge
from taskyard.jobs.model import Lease
from taskyard.settings import Settings
from taskyard.store.client import Store
from taskyard.store.reach import Reach
from tests.helpers import eventually

_LEASE = Lease(job_id="job", worker_id="w1", attempt=1, lease_id="lease")


class Set:
    """Stands in for the store: says how much of the replica set can be reached."""

    reaches = Reach.PRIMARY
    asked = 0

    def reach(self, *, silence_seconds: float) -> Reach:
        assert silence_seconds >= 2
        self.asked += 1
        return self.reaches


class Running:
    """One running job, and the deadlines to which it was extended."""

    def __init__(self) -> None:
        self.until: list[float] = []

    def leases(self) -> list[Lease]:
        return [_LEASE]

    def extend(self, leases: Collection[Lease], until: float) -> None:
        assert list(leases) == [_LEASE]
        self.until.append(until)

    def run_assigned(self, lease: Lease) -> None:
        raise AssertionError(lease)

    def cancel(self, lease: Lease) -> None:
        raise AssertionError(lease)

    def abandon(self, lease: Lease) -> None:
        raise AssertionError(lease)

    def give_back(self, reason: str) -> None:
        raise AssertionError(reason)


class Time:
    """A clock that only the test moves, and that counts how often it is read."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self._looks = 0

    def monotonic(self) -> float:
        self._looks += 1
        return self.now

    def await_looks(self) -> None:
        """Wait until the bridge, which reads the clock at intervals, has acted on this time."""
        before = self._looks
        eventually(lambda: self._looks > before + 2)


@pytest.fixture(params=[0.02])
def world(request: pytest.FixtureRequest) -> Iterator[tuple[Set, Running, Bridge]]:
    settings = dataclasses.replace(
        Settings(), lease_seconds=1.0, renewal_seconds=0.1, cancel_poll_seconds=request.param
    )
    members, running = Set(), Running()
    bridge = Bridge(cast(Store, cast(Any, members)), settings, running)
    bridge.start()
    yield members, running, bridge
    bridge.stop()


def test_jobs_are_extended_while_nobody_can_write(world: tuple[Set, Running, Bridge]) -> None:
    members, running, _ = world
    members.reaches = Reach.ELECTION
    eventually(lambda: len(running.until) > 5)
    until = list(running.until)
    assert until == sorted(until)
    assert until[-1] <= time.monotonic() + 1.0


@pytest.mark.parametrize("world", [3600], indirect=True)
def test_so_they_are_where_cancels_are_looked_for_rarely(
    world: tuple[Set, Running, Bridge],
) -> None:
    members, running, _ = world
    members.reaches = Reach.ELECTION
    eventually(lambda: running.until)


@pytest.mark.parametrize("reach", [Reach.PRIMARY, Reach.CUT_OFF])
def test_nothing_is_extended_while_others_may_write(
    world: tuple[Set, Running, Bridge], reach: Reach
) -> None:
    members, running, _ = world
    members.reaches = reach
    eventually(lambda: members.asked > 10)
    assert running.until == []


def test_nobody_asks_while_renewals_are_written(
    world: tuple[Set, Running, Bridge], monkeypatch: pytest.MonkeyPatch
) -> None:
    members, running, bridge = world
    passing = Time()
    monkeypatch.setattr(bridge_module, "time", passing)
    for _ in range(5):
        bridge.renewed()
        passing.await_looks()
        members.reaches = Reach.ELECTION
        passing.now += 0.1
        passing.await_looks()
    assert running.until == []
