"""Change streams that die: they are hints, and messages go on without them."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue

import pytest
from bson import ObjectId
from pymongo.database import Database

from taskyard.broker.messages import Messages
from taskyard.broker.watcher import Watcher
from tests.broker.faults.conftest import DATABASE, Document, Fail
from tests.helpers import eventually
from tests.replica_set import ReplicaSet

APP = "watcher-under-test"

Woken = SimpleQueue[str | None]


@pytest.fixture
def woken(replica_set: ReplicaSet) -> Iterator[Woken]:
    """What a watcher of this test's own tells; it tells None when its stream is open."""
    told = Woken()
    with replica_set.client(appname=APP, socketTimeoutMS=5000) as client:
        watcher = Watcher(lambda: client[DATABASE], "broker.messages")

        def tell(queue: str | None, _message: ObjectId | None) -> bool:
            told.put(queue)
            return True

        watcher.subscribe("test", tell)
        assert told.get(timeout=30) is None
        yield told


@pytest.mark.parametrize(
    "fault",
    [
        {"errorCode": 286},
        {"errorCode": 43},
        {"closeConnection": True},
        {"errorCode": 10107},
        {"errorCode": 11600},
        {"errorCode": 280},
    ],
    ids=str,
)
def test_a_stream_that_dies_is_opened_again(
    woken: Woken,
    fail: Fail,
    database: Database[Document],
    fault: Document,
) -> None:
    """It starts without a token, and has everything looked at once."""
    fail(["getMore"], app=APP, **fault)
    messages = Messages(database, "broker")

    def heard() -> bool:
        messages.publish("again", "")
        while not woken.empty():
            if woken.get() == "again":
                return True
        return False

    eventually(heard, 30)
