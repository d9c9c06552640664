"""The follower of the change stream: when it closes it, opens another and reports its end."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import InvalidOperation, OperationFailure

from taskyard.broker import watcher as watcher_module
from taskyard.broker.stored import AT_ONCE
from taskyard.broker.watcher import Watcher
from taskyard.embedded import EmbeddedServer
from tests.helpers import eventually


def open_streams(database: Database[dict[str, Any]]) -> int:
    """Count the change streams on the collection, waited on at this moment or not."""
    stages: list[dict[str, Any]] = [
        {"$currentOp": {"idleCursors": True}},
        {"$match": {"ns": f"{database.name}.news"}},
    ]
    return len(list(database.client.admin.aggregate(stages)))


def test_without_consumers_the_stream_is_closed_and_the_next_one_opens_another(
    monkeypatch: pytest.MonkeyPatch, mongod: EmbeddedServer
) -> None:
    monkeypatch.setattr(watcher_module, "_IDLE_SECONDS", 0.0)
    monkeypatch.setattr(watcher_module, "_AWAIT_MS", 100)
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        database = client.broker_watcher
        watcher = Watcher(lambda: database, "news")
        heard = SimpleQueue[str | None]()

        def wake(queue: str | None, *_: object, **__: object) -> bool:
            heard.put(queue)
            return True

        for queue in ("first", "second"):
            watcher.subscribe("test", wake)
            eventually(lambda: watcher.follows)
            assert open_streams(database) == 1
            database.news.insert_one({"queue": queue, "visibleAt": AT_ONCE})
            while heard.get(timeout=10) != queue:
                pass  # the opened stream first wakes with None: it knows no earlier change
            watcher.unsubscribe("test")
            eventually(lambda: watcher._thread is None)
            assert not watcher.follows
            assert open_streams(database) == 0
        client.drop_database(database)


def test_why_the_stream_ended_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is opened again each second, for as long as a right is missing."""
    monkeypatch.setattr(watcher_module, "_REOPEN_SECONDS", 0.0)
    ends = SimpleQueue[Exception]()
    for number in range(3):
        ends.put(OperationFailure(f"not authorized, at {number}", 13))
    ends.put(OperationFailure("only on replica sets", 40573))
    ends.put(InvalidOperation("closed"))

    def open_database() -> Database[dict[str, object]]:
        raise ends.get()

    watcher = Watcher(open_database, "broker.messages")
    watcher.subscribe("test", lambda *_, **__: True)
    eventually(ends.empty)
    assert [record.getMessage() for record in caplog.records] == [
        "broker: the change stream ended: OperationFailure: not authorized, at 0",
        "broker: the change stream ended: OperationFailure: only on replica sets",
    ]


def test_a_change_that_cannot_be_read_does_not_end_it_for_good(
    monkeypatch: pytest.MonkeyPatch, mongod: EmbeddedServer
) -> None:
    monkeypatch.setattr(watcher_module, "_REOPEN_SECONDS", 0.0)
    with MongoClient[dict[str, Any]](mongod.uri) as client:
        database = client.broker_watcher_odd
        watcher = Watcher(lambda: database, "news")
        heard = SimpleQueue[str | None]()

        def wake(queue: str | None, *_: object, **__: object) -> bool:
            heard.put(queue)
            return queue in {"celery"}

        watcher.subscribe("test", wake)
        for queue in ({"of": "a stranger"}, "celery"):
            while heard.get(timeout=10) is not None:
                pass  # the opened stream wakes everybody once
            database.news.insert_one({"queue": queue, "visibleAt": AT_ONCE})
        while heard.get(timeout=10) != "celery":
            pass
        watcher.unsubscribe("test")
        client.drop_database(database)
