"""What the follower of the change stream says when there is none."""

from __future__ import annotations

from queue import SimpleQueue

import pytest
from pymongo.database import Database
from pymongo.errors import InvalidOperation, OperationFailure

from taskyard.broker import watcher as watcher_module
from taskyard.broker.watcher import Watcher
from tests.helpers import eventually


def test_why_the_stream_ended_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again each second, for as long as a right is missing."""
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
    eventually(lambda: watcher._thread is not None and not watcher._thread.is_alive())
    assert [record.getMessage() for record in caplog.records] == [
        "broker: the change stream ended: OperationFailure: not authorized, at 0",
        "broker: the change stream ended: OperationFailure: only on replica sets",
    ]
