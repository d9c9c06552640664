"""What a process holds, and the one thread that writes its answers."""

from __future__ import annotations

import pytest

from taskyard.broker import leases as leases_module
from taskyard.broker.leases import Leases
from taskyard.broker.messages import Messages
from taskyard.store.client import Store
from tests.helpers import eventually

LEASE_SECONDS = 30.0


def test_a_flush_ends_when_what_was_posted_is_written(store: Store) -> None:
    messages = Messages(store.database, "broker")
    leases = Leases(messages, LEASE_SECONDS)
    messages.publish("q", "hello")
    for _ in range(3):
        (claimed,) = messages.claim("q", 1, round(LEASE_SECONDS * 1000))
        leases.release(claimed.delivery)
        leases.flush()
        assert messages.count("q") == 1


def test_a_queue_is_kept_as_often_as_its_expiry_asks_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle worker of a queue that expires in five minutes writes once a minute for it."""
    monkeypatch.setattr(leases_module, "KEEP_SECONDS", 0.02)
    leases = Leases(Messages(store.database, "broker"), LEASE_SECONDS)
    kept: list[str] = []
    leases.keep("soon", lambda: kept.append("soon"), expires_seconds=0.05)
    leases.keep("late", lambda: kept.append("late"), expires_seconds=300)
    eventually(lambda: kept.count("soon") >= 10)
    assert kept.count("late") == 1
    leases.keep("soon", None)
    leases.keep("late", None)
