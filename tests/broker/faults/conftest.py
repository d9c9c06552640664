"""A database for the broker on the real replica set, and a way to make its commands fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from tests.replica_set import ReplicaSet, fail_command, heal_commands

#: The appname of the client whose commands are made to fail.
APP = "broker-under-test"
DATABASE = "broker_verbs"

Document = dict[str, Any]

#: A function that makes the next commands of the client under test fail.
Fail = Callable[..., None]


@pytest.fixture
def admin(replica_set: ReplicaSet) -> Iterator[MongoClient[Document]]:
    """A client for the tests themselves, which no fail point affects."""
    with replica_set.client(appname="admin", w="majority") as client:
        yield client


@pytest.fixture
def fail(replica_set: ReplicaSet, admin: MongoClient[Document]) -> Iterator[Fail]:
    def arrange(commands: list[str], *, times: int = 1, app: str = APP, **data: Any) -> None:
        fail_command(admin, commands=commands, times=times, appName=app, **data)

    yield arrange
    replica_set.await_primary()
    heal_commands(admin)


@pytest.fixture(scope="module")
def database(replica_set: ReplicaSet) -> Iterator[Database[Document]]:
    """The broker's database, with shorter time-outs, so that lasting faults end a test sooner."""
    with replica_set.client(
        appname=APP, w="majority", timeoutMS=1000, heartbeatFrequencyMS=500
    ) as client:
        yield client[DATABASE]
        client.drop_database(DATABASE)
