"""Change streams that die: they are only hints, and messages are delivered without them."""

from __future__ import annotations

import threading
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

#: Error codes after which the driver cannot resume the stream.
HISTORY_LOST = (280, 286)

Woken = SimpleQueue[str | None]


@pytest.fixture
def woken(replica_set: ReplicaSet) -> Iterator[Woken]:
    """The queues that a watcher of this test reports; it reports None when its stream opens."""
    told = Woken()
    ended = threading.Event()

    def open_database() -> Database[Document]:
        if ended.is_set():
            threading.Event().wait()  # a watcher lives as long as its process
        return client[DATABASE]

    def wake(queue: str | None, message: ObjectId | None, *, later: bool) -> bool:
        told.put(queue)
        return True

    with replica_set.client(appname=APP, timeoutMS=5000, heartbeatFrequencyMS=2000) as client:
        Watcher(open_database, "broker.messages").subscribe("test", wake)
        assert told.get(timeout=30) is None
        yield told
        ended.set()


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
    """At its last position; or, if that is lost, at the present, with one look at everything."""
    fail(["getMore"], app=APP, **fault)
    messages = Messages(database, "broker")
    heard: set[str | None] = set()

    def hears(queue: str) -> bool:
        messages.publish(queue, "")
        while not woken.empty():
            heard.add(woken.get())
        return queue in heard

    # The first message may still come with the ``getMore`` that was already on its way.
    eventually(lambda: hears("before"), 30)
    eventually(lambda: hears("after"), 30)
    if fault.get("errorCode") in HISTORY_LOST:
        assert None in heard
