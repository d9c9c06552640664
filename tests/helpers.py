"""Small helpers for the tests of all packages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2
import pytest
from pymongo.collection import Collection
from pymongo.database import Database

T = TypeVar("T")

#: The methods of a collection that write.
WRITES = (
    *("insert_one", "insert_many", "update_one", "update_many", "bulk_write"),
    *("find_one_and_update", "delete_one", "delete_many"),
)


def eventually(check: Callable[[], T | None], timeout_seconds: float = 10) -> T:
    """Return the first truthy value of ``check``; fail when none comes in time."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{check} stayed {value!r} for {timeout_seconds} s")
        waiting_step()


def waiting_step() -> None:
    """Pause between two checks of a condition."""
    time.sleep(0.02)  # waiting for a condition


def empty(database: Database[dict[str, Any]]) -> None:
    """Delete what is in the database, but not its collections and indexes."""
    for name in database.list_collection_names():
        if name == "system.profile":
            # Written by a command that was still waiting when a test had ended its profiling.
            database.drop_collection(name)
        else:
            database[name].delete_many({})


def before_each_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]) -> None:
    """Call ``act`` with the collection's name before each write that this thread makes.

    Threads that an earlier test left in this process write, too, and to other databases.
    """
    here = threading.get_ident()

    def observed(write: Callable[..., Any]) -> Callable[..., Any]:
        def method(collection: Any, *given: Any, **named: Any) -> Any:
            if threading.get_ident() == here:
                act(collection.name)
            return write(collection, *given, **named)

        return method

    for name in WRITES:
        monkeypatch.setattr(Collection, name, observed(getattr(Collection, name)))


def answers(url: str) -> bool:
    """Whether a web process answers at this address."""
    try:
        return httpx2.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx2.TransportError:
        return False
