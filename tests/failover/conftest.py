"""The platform on the real replica set of three, and a way to make its commands fail."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from taskyard.settings import Settings
from taskyard.store import client as store_client
from taskyard.store.client import Store
from taskyard.store.connection import server_time
from tests.conftest import TestClock
from tests.helpers import empty
from tests.replica_set import ReplicaSet, fail_command, heal_commands

#: The appname of the application whose commands are made to fail.
APP = "under-test"
DATABASE = "failover"

#: A function that makes the next commands of the application under test fail.
Fail = Callable[..., None]


@pytest.fixture
def admin(replica_set: ReplicaSet) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client for the tests themselves, which no fail point affects."""
    with replica_set.client(appname="admin", w="majority") as client:
        yield client


@pytest.fixture
def fail(replica_set: ReplicaSet, admin: MongoClient[dict[str, Any]]) -> Iterator[Fail]:
    def arrange(commands: list[str], *, times: int = 1, collection: str = "", **data: Any) -> None:
        if collection:
            data["namespace"] = f"{DATABASE}.{collection}"
        fail_command(admin, commands=commands, times=times, appName=APP, **data)

    yield arrange
    replica_set.await_primary()
    heal_commands(admin)


@pytest.fixture
def settings(replica_set: ReplicaSet, tmp_path: Path) -> Settings:
    return Settings(mongodb_uri=replica_set.uri, database=DATABASE, data_dir=tmp_path / "data")


@pytest.fixture(scope="session")
def _set_store(replica_set: ReplicaSet) -> Iterator[Store]:
    settings = Settings(mongodb_uri=replica_set.uri, database=DATABASE)
    store = store_client.connect(settings, app_name=APP)
    yield store
    store.close()


@pytest.fixture
def clock(_set_store: Store) -> TestClock:
    return TestClock(lambda: server_time(_set_store.client))


@pytest.fixture
def store(
    _set_store: Store,
    settings: Settings,
    clock: TestClock,
    admin: MongoClient[dict[str, Any]],
) -> Store:
    """The store of the application under test, with an empty database."""
    empty(admin[DATABASE])
    built = store_client.build(
        _set_store.client, settings, feed_uri=settings.mongodb_uri, clock=clock
    )
    return dataclasses.replace(built, feed=_set_store.feed)
