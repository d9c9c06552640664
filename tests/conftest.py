"""Fixtures for all tests: one real mongod for the run, an empty database for each test."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from taskyard import clock as clock_module
from taskyard.context import Platform
from taskyard.embedded import EmbeddedServer
from taskyard.jobs.transition import Transition
from taskyard.scheduler import ticks
from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.store.client import Store
from taskyard.store.connection import server_time
from tests.helpers import empty
from tests.replica_set import ReplicaSet


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A real embedded server. If it cannot start, the tests fail; they are never skipped."""
    with EmbeddedServer(tmp_path_factory.mktemp("mongod")) as server:
        yield server


@pytest.fixture(scope="session")
def replica_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaSet]:
    """One replica set of three for the run. A test that stops a member must start it again."""
    with ReplicaSet(tmp_path_factory.mktemp("set")) as started:
        yield started


@pytest.fixture(scope="session")
def _connected(mongod: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    settings = Settings(mongodb_uri=mongod.uri, database="tests")
    store = store_client.connect(settings)
    yield store
    store.close()


@pytest.fixture
def settings(mongod: EmbeddedServer, tmp_path: Path) -> Settings:
    return Settings(mongodb_uri=mongod.uri, database="tests", data_dir=tmp_path / "data")


class TestClock(clock_module.Clock):
    """The server's clock, which a test can move forward."""

    __test__ = False
    ahead = timedelta()

    def now(self) -> Any:
        return clock_module.to_milliseconds(super().now() + self.ahead)

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.ahead += timedelta(seconds=seconds)


@pytest.fixture
def clock(_connected: Store) -> TestClock:
    return TestClock(lambda: server_time(_connected.client))


@pytest.fixture
def store(_connected: Store, settings: Settings, clock: TestClock) -> Iterator[Store]:
    """The real store with an empty database."""
    empty(_connected.database)
    built = store_client.build(
        _connected.client, settings, feed_uri=settings.mongodb_uri, clock=clock
    )
    yield dataclasses.replace(built, feed=_connected.feed)
    # Counts of this test must not be written to the database of the next one.
    built.counters.flush()


@pytest.fixture
def announced() -> list[Transition]:
    """The assignments that the platform announced to agents."""
    return []


@pytest.fixture
def platform(store: Store, settings: Settings, announced: list[Transition]) -> Platform:
    def announce(assigned: Sequence[Transition]) -> None:
        announced.extend(assigned)

    return Platform(settings=settings, store=store, announce=announce)


@pytest.fixture
def with_settings(platform: Platform) -> Callable[..., Platform]:
    """A function that returns the platform with other settings."""

    def change(**values: Any) -> Platform:
        return dataclasses.replace(
            platform, settings=dataclasses.replace(platform.settings, **values)
        )

    return change


@pytest.fixture
def tick(platform: Platform) -> Callable[[str], None]:
    """A function that runs one of the scheduler's ticks now."""

    def run(name: str) -> None:
        ticks.run(platform, name)

    return run


@pytest.fixture
def let_pass(clock: TestClock, tick: Callable[[str], None]) -> Callable[[float], None]:
    """A function that lets time pass and runs the time-out sweep every 2 s, as beat does."""

    def run(seconds: float) -> None:
        for _ in range(int(seconds // 2)):
            clock.advance(2)
            tick("timeouts")

    return run


Racing = Callable[[Callable[[], Any], int], list[Any]]


@pytest.fixture
def racing() -> Racing:
    """A function that calls another in many threads at once and returns all results."""

    def race(act: Callable[[], Any], count: int) -> list[Any]:
        results: list[Any] = []
        barrier = threading.Barrier(count)

        def run() -> None:
            barrier.wait()
            results.append(act())

        threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    return race
