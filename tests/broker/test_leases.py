"""What a process holds, and the one thread that writes its answers."""

from __future__ import annotations

from taskyard.broker.leases import Leases
from taskyard.broker.messages import Messages
from taskyard.store.client import Store

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
